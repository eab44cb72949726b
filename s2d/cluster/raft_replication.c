/* raft_replication: the leader and its peers. What is due to a peer is worked out once per
 * raft_ready() (raft_leader_flush()), so everything proposed in one turn travels together.
 * Heartbeats are rounds with numbers: they prove leadership (reads, leases, check-quorum), never
 * wait for a disk, and carry no commit index: that only follows entries that were compared (R2).
 * What was lost is found through the answers to heartbeats. */
#include "s2d/cluster/raft_internal.h"

static uint64_t retry_ns(const struct raft *raft)
{
    return 2 * raft->options.heartbeat_ns;
}

void raft_peer_reset(struct raft *raft, struct peer *peer)
{
    *peer = (struct peer){
        .id = peer->id,
        .role = peer->role,
        .next = raft_last(raft) + 1,
        .mode_request = raft->request,
        .heard_ns = raft->now_ns,
        .level_ns = raft->now_ns,
        .away = true, /* until it has shown that it is level */
    };
}

void raft_lead(struct raft *raft)
{
    /* All entries that are not known to be committed count as proposed: the bound is on what piles
     * up. */
    raft->uncommitted_bytes = 0;
    for (uint64_t i = raft->commit + 1; i <= raft_last(raft); i++)
        raft->uncommitted_bytes += raft_log_entry(&raft->log, i)->size;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        bool granted = raft->peers[i].granted;

        raft_peer_reset(raft, &raft->peers[i]);
        raft->peers[i].down = !granted;
    }
    if (raft_append_new(raft, RAFT_NOOP, NULL, 0) < 0) {
        raft_follow(raft, raft->hard.term, 0); /* no memory: let another lead */
        return;
    }
    raft->state = RAFT_LEADER;
    raft->leader = raft->options.id;
    raft->term_start = raft_last(raft);
    raft->elected_ns = raft->now_ns;
    raft->heartbeat_due_ns = raft->now_ns;
    raft->round = raft->quorum_round = 0;
    raft->quorum_round_ns = 0;
    raft->round_wanted = true;
    raft->asked = 0;
    raft->commit_ns = raft->now_ns;
    raft->transfer_target = 0;
    raft->read_count = 0;
    raft->lost_count = 0;
}

/* Entries from peer->next on that go into one message. */
static uint32_t gather(const struct raft *raft, const struct peer *peer,
                       struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX])
{
    uint64_t bytes = 0;
    uint32_t count = 0;

    while (count < raft->options.message_entries && peer->next + count <= raft_last(raft)) {
        const struct raft_entry *entry = raft_log_entry(&raft->log, peer->next + count);

        bytes += entry->size;
        if (bytes > RAFT_MESSAGE_BYTES_MAX)
            break;
        entries[count++] = (struct raft_view){
            .term = entry->term, .type = entry->type, .size = entry->size, .data = entry->data};
    }
    return count;
}

/* False: the peer needs a snapshot instead. */
static bool send_append(struct raft *raft, struct peer *peer)
{
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    uint64_t prev = peer->next - 1;
    struct raft_message message = {.type = RAFT_APPEND};
    uint32_t count;

    if (prev < raft->log.base.index) {
        raft_peer_snapshot(raft, peer);
        return false;
    }
    count = gather(raft, peer, entries);
    if (peer->mode == PEER_PROBE &&
        (planted(raft, RAFT_ACK_LAST_STORED) || planted(raft, RAFT_COMMIT_LAST_STORED)))
        count = 0; /* as libraft probes: ours bring the entry that cuts a leftover suffix off */
    message.append.request = ++raft->request;
    message.append.prev_index = prev;
    message.append.prev_term = raft_log_term(&raft->log, prev);
    message.append.commit = raft->commit;
    message.append.entry_count = count;
    message.append.entries = entries;
    raft_send(raft, peer->id, &message, 0); /* before our own copy is durable: R3 makes that safe */

    peer->commit_sent = MAX(peer->commit_sent, MIN(raft->commit, prev + count));
    if (peer->mode == PEER_PROBE || peer->inflight_count == 0)
        peer->sent_ns = raft->now_ns;
    if (peer->mode == PEER_REPLICATE && count > 0) {
        peer->next += count;
        peer->inflight[peer->inflight_count++] = peer->next - 1;
    }
    return true;
}

static void peer_flush(struct raft *raft, struct peer *peer)
{
    if (peer->role == RAFT_WITNESS || peer->lost)
        return;
    if (peer->mode == PEER_PROBE && !peer->probing)
        peer->probing = send_append(raft, peer);
    if (peer->mode != PEER_REPLICATE)
        return;
    while (peer->inflight_count < RAFT_INFLIGHT_MAX && peer->next <= raft_last(raft))
        if (!send_append(raft, peer))
            return;
    if (peer->commit_sent < MIN(raft->commit, peer->next - 1) &&
        peer->inflight_count < RAFT_INFLIGHT_MAX)
        send_append(raft, peer); /* without entries: just the commit index */
}

static uint64_t peer_match(const struct raft *raft, const struct peer *peer)
{
    if (peer->role == RAFT_WITNESS && planted(raft, RAFT_WITNESS_HEARTBEAT))
        return raft->durable;
    return peer->lost ? 0 : peer->match;
}

void raft_leader_commit(struct raft *raft)
{
    uint64_t own = planted(raft, RAFT_COUNT_UNSYNCED) ? raft_last(raft) : raft->durable;
    uint64_t index = raft_quorum_value(raft, own, peer_match);

    if (index <= raft->commit)
        return;
    /* R3: a copy of an earlier term's entry proves nothing, a later leader may still undo it. */
    SOMETIMES_IF(index < raft->term_start,
                 "raft: copies of an earlier term's entry do not commit it");
    if (index < raft->term_start && !planted(raft, RAFT_COUNT_OLD_TERMS))
        return;
    raft_commit_to(raft, index);
    if (raft->commit >= raft->configuration_index && !raft_votes(raft)) {
        SOMETIMES("raft: a leader has removed itself");
        raft_hand_over(raft); /* it has removed itself */
        raft_follow(raft, raft->hard.term, 0);
    }
}

static uint64_t peer_round(const struct raft *raft, const struct peer *peer)
{
    (void)raft;
    return peer->lost ? 0 : peer->answered_round;
}

static void read_done(struct raft *raft, const struct pending_read *read, int result)
{
    assert(raft->done_read_count < ARRAY_SIZE(raft->done_reads));
    raft->done_reads[raft->done_read_count++] =
        (struct raft_read){.context = read->context, .result = result, .index = read->index};
}

void raft_leader_fail_reads(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->read_count; i++)
        read_done(raft, &raft->reads[i], -ESTALE);
    raft->read_count = 0;
}

static void finish_reads(struct raft *raft)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < raft->read_count; i++) {
        const struct pending_read *read = &raft->reads[i];

        if (read->round != 0 && read->round <= raft->quorum_round)
            read_done(raft, read, 0);
        else
            raft->reads[left++] = *read;
    }
    raft->read_count = left;
}

void raft_leader_rounds(struct raft *raft)
{
    uint64_t round = raft_quorum_value(raft, raft->round, peer_round);

    if (round <= raft->quorum_round)
        return;
    raft->quorum_round = round;
    if (raft->round - round < RAFT_ROUNDS_MAX)
        raft->quorum_round_ns = raft->round_ns[round % RAFT_ROUNDS_MAX];
    finish_reads(raft);
}

static void begin_round(struct raft *raft)
{
    struct raft_message message = {.type = RAFT_HEARTBEAT};

    raft->round_wanted = false;
    raft->heartbeat_due_ns = raft->now_ns + raft->options.heartbeat_ns;
    message.heartbeat.round = ++raft->round;
    raft->round_ns[raft->round % RAFT_ROUNDS_MAX] = raft->now_ns;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        raft_send(raft, raft->peers[i].id, &message, 0);
    raft_leader_rounds(raft); /* alone, it is its own quorum */
}

/* Reads that came before an entry of this term was committed have waited for it; the rest wait for
 * the next round. */
static void admit_reads(struct raft *raft)
{
    if (!raft_term_committed(raft) && !planted(raft, RAFT_READ_AT_ONCE))
        return;
    for (uint32_t i = 0; i < raft->read_count; i++) {
        struct pending_read *read = &raft->reads[i];

        if (read->round != 0)
            continue;
        read->index = raft->commit;
        read->round = raft->round + 1;
        raft->round_wanted = true;
        if (planted(raft, RAFT_READ_AT_ONCE))
            read->round = raft->quorum_round ? raft->quorum_round : read->round;
    }
    if (planted(raft, RAFT_READ_AT_ONCE))
        finish_reads(raft);
}

void raft_leader_flush(struct raft *raft)
{
    admit_reads(raft);
    if (raft->round_wanted || raft->now_ns >= raft->heartbeat_due_ns)
        begin_round(raft);
    for (uint32_t i = 0; i < raft->peer_count; i++)
        peer_flush(raft, &raft->peers[i]);
    raft_witness_ask(raft);
}

int raft_read_index(struct raft *raft, uint64_t now_ns, uint64_t context)
{
    raft->now_ns = MAX(raft->now_ns, now_ns);
    if (!raft_leads(raft))
        return -ESTALE;
    if (raft->read_count == RAFT_READS_MAX ||
        raft->read_count + raft->done_read_count >= ARRAY_SIZE(raft->done_reads))
        return -EAGAIN;
    raft->reads[raft->read_count++] = (struct pending_read){.context = context};
    return 0;
}

void raft_leader_tick(struct raft *raft)
{
    uint64_t answered_ns = MAX(raft->elected_ns, raft->quorum_round_ns);

    if (raft->now_ns - answered_ns >= raft->options.election_timeout_max_ns) {
        SOMETIMES("raft: a leader that no quorum answers steps down");
        raft_follow(raft, raft->hard.term, 0); /* it may be cut off: others may lead by now */
        return;
    }
    if (raft->transfer_target != 0 && raft->now_ns >= raft->transfer_deadline_ns)
        raft->transfer_target = 0;
    for (uint32_t i = 0; i < raft->peer_count; i++) {
        raft_witness_presence(raft, &raft->peers[i]);
        raft_snapshot_tick(raft, &raft->peers[i]);
    }
}

void raft_peer_probe(struct raft *raft, struct peer *peer, uint64_t next)
{
    peer->mode_request = raft->request;
    peer->mode = PEER_PROBE;
    peer->next = MAX(next, peer->match + 1);
    peer->probing = false;
    peer->inflight_count = 0;
}

static void retire_inflight(struct raft *raft, struct peer *peer)
{
    uint32_t gone = 0;

    while (gone < peer->inflight_count && peer->inflight[gone] <= peer->match)
        gone++;
    if (gone == 0)
        return;
    peer->inflight_count -= gone;
    memmove(peer->inflight, peer->inflight + gone, peer->inflight_count * sizeof(uint64_t));
    peer->sent_ns = raft->now_ns;
}

void raft_peer_confirmed(struct raft *raft, struct peer *peer, uint64_t index, bool located)
{
    if (index > peer->match) {
        peer->match = index;
        peer->request_before_match = raft->request;
        peer->round_before_match = raft->round;
        peer->level_ns = raft->now_ns;
    }
    if (peer->mode == PEER_REPLICATE) {
        retire_inflight(raft, peer);
        peer->next = MAX(peer->next, peer->match + 1);
    } else if (located && peer->match >= raft->log.base.index) {
        raft_peer_probe(raft, peer, peer->match + 1);
        peer->mode = PEER_REPLICATE;
    }
    raft_witness_presence(raft, peer);
    raft_transfer_advance(raft);
    raft_leader_commit(raft); /* last: it may end the leadership */
}

static void peer_heard(struct raft *raft, struct peer *peer)
{
    peer->heard_ns = raft->now_ns;
    peer->down = false;
}

/* R6. It had confirmed match; then this leader asked again, and the answer shows less. Its store
 * lost what it had acknowledged (a restored disk, a cut journal): whatever it says is worth nothing
 * any more. */
static void peer_check_log(struct raft *raft, struct peer *peer, bool asked_after, bool holds_match)
{
    if (!asked_after || holds_match || peer->lost || peer->match == 0)
        return;
    SOMETIMES("raft: a log got shorter than what it had confirmed");
    peer->lost = true;
    raft->lost[raft->lost_count++] = peer->id;
    raft_witness_presence(raft, peer);
}

static int on_refused(struct raft *raft, struct peer *peer, const struct raft_message *message)
{
    uint64_t prev = message->append_answer.index, agreeing;
    uint64_t request = message->append_answer.request;

    peer_check_log(raft, peer, request > peer->request_before_match,
                   message->append_answer.last_index >= peer->match && prev > peer->match);
    if (peer->lost || prev <= peer->match || peer->mode == PEER_SNAPSHOT)
        return 0; /* from before it confirmed match */
    if (request <= peer->mode_request)
        return 0; /* one was acted upon already */
    agreeing = raft_log_agreeing(&raft->log, message->append_answer.hint_index,
                                 message->append_answer.hint_term);
    raft_peer_probe(raft, peer, MIN(prev, agreeing + 1));
    return 0;
}

int raft_on_append_answer(struct raft *raft, struct peer *peer, const struct raft_message *message)
{
    if (message->append_answer.request_term != raft->hard.term)
        return 0;
    if (message->append_answer.request > raft->request || peer->role == RAFT_WITNESS)
        return -EPROTO;
    peer_heard(raft, peer);
    if (!message->append_answer.accepted)
        return on_refused(raft, peer, message);
    if (message->append_answer.index > raft_last(raft))
        return -EPROTO;
    raft_peer_confirmed(raft, peer, message->append_answer.index,
                        message->append_answer.request > peer->mode_request);
    return 0;
}

/* The peer lives: what it should have confirmed by now was lost on the way, or its disk is slow. */
static void peer_retry(struct raft *raft, struct peer *peer, uint64_t peer_commit)
{
    bool late = raft->now_ns - peer->sent_ns >= retry_ns(raft);

    if (peer->mode == PEER_PROBE && late)
        peer->probing = false;
    else if (peer->mode == PEER_REPLICATE && peer->inflight_count > 0 && late)
        raft_peer_probe(raft, peer, peer->match + 1);
    if (peer_commit < MIN(peer->match, raft->commit))
        peer->commit_sent = MIN(peer->commit_sent, peer_commit);
}

int raft_on_heartbeat_answer(struct raft *raft, struct peer *peer,
                             const struct raft_message *message)
{
    uint64_t round = message->heartbeat_answer.round;

    if (message->heartbeat_answer.request_term != raft->hard.term)
        return 0;
    if (round > raft->round)
        return -EPROTO;
    peer_heard(raft, peer);
    peer_check_log(raft, peer, round > peer->round_before_match,
                   message->heartbeat_answer.last_index >= peer->match);
    peer->answered_round = MAX(peer->answered_round, round);
    raft_leader_rounds(raft);
    raft_witness_presence(raft, peer);
    if (peer->role != RAFT_WITNESS && !peer->lost)
        peer_retry(raft, peer, message->heartbeat_answer.commit);
    return 0;
}
