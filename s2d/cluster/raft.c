/* raft: life, dispatch, time. The rules that safety rests on, and where each one lives:
 *
 *  R1  No message leaves before what it promises is durable (raft_send(); its `batch`). That is:
 *      every message's term; for a vote, the vote and the whole log it was compared with; for an
 *      acknowledgement, the entries. When the term changes, what was held for the old term is
 *      dropped (raft_drop_held()).
 *
 *  R2  An answer acknowledges prev + n of its own request, never more, and commit follows
 *      min(leader's commit, prev + n): raft_on_append(). Answers name the term of the request.
 *
 *  R3  A leader counts copies only of entries of its own term, its own copy only when durable, a
 *      witness only by its word: raft_leader_commit().
 *
 *  R4  One membership change at a time, after an entry of the leader's term is committed:
 *      raft_change().
 *
 *  R5  What is handed out for applying is committed, and durable on this node: show_apply().
 *
 *  R6  A log that got shorter than what it confirmed is told, and never counted again:
 *      peer_check_log(). */
#include "s2d/cluster/raft_internal.h"

#define ELECTION_TIMEOUT_MIN_NS (600 * MS)
#define ELECTION_TIMEOUT_MAX_NS (1200 * MS)
#define HEARTBEAT_NS (200 * MS)
#define AWAY_AFTER_NS (400 * MS)
#define TRAILING_ENTRIES 1024
#define LOG_BYTES_MAX (256 * MIB)

int raft_bootstrap(const struct raft_configuration *configuration,
                   struct raft_hard_state *ret_hard_state, struct raft_snapshot *ret_base)
{
    int r;

    r = raft_configuration_validate(configuration);
    if (r < 0)
        return r;
    /* As if an entry 1 of term 1 had been committed everywhere: a joiner has nothing at index 1, so
     * it is sent a snapshot, and learns the configuration even if no change was ever made. */
    *ret_hard_state = (struct raft_hard_state){.term = 1};
    *ret_base = (struct raft_snapshot){.index = 1, .term = 1, .configuration = *configuration};
    return 0;
}

static void default_to(uint64_t *setting, uint64_t value)
{
    if (*setting == 0)
        *setting = value;
}

static int options_complete(struct raft_options *options)
{
    default_to(&options->election_timeout_min_ns, ELECTION_TIMEOUT_MIN_NS);
    default_to(&options->election_timeout_max_ns, ELECTION_TIMEOUT_MAX_NS);
    default_to(&options->heartbeat_ns, HEARTBEAT_NS);
    default_to(&options->away_after_ns, AWAY_AFTER_NS);
    default_to(&options->trailing_entries, TRAILING_ENTRIES);
    default_to(&options->log_bytes_max, LOG_BYTES_MAX);
    default_to(&options->applied, options->base.index);

    if (options->message_entries == 0)
        options->message_entries = RAFT_MESSAGE_ENTRIES_MAX;
    if (options->id == 0 || !options->random)
        return -EINVAL;
    if (options->message_entries > RAFT_MESSAGE_ENTRIES_MAX)
        return -EINVAL;
    if (options->election_timeout_max_ns < options->election_timeout_min_ns)
        return -EINVAL;
    return options->heartbeat_ns >= options->election_timeout_min_ns / 2 ? -EINVAL : 0;
}

/* Does what the store holds fit together, so far? Its numbers are bounded as those of messages are:
 * they are counted on. */
static bool options_sound(const struct raft_options *options)
{
    const struct raft_hard_state *hard = &options->hard_state;
    const struct raft_snapshot *base = &options->base;

    if (MAX(hard->term, base->index) > RAFT_NUMBER_MAX ||
        MAX(hard->vouched_term, hard->vouched_index) > RAFT_NUMBER_MAX)
        return false;
    if (options->applied < base->index || base->term > options->hard_state.term)
        return false;
    if (base->index == 0)
        return base->term == 0 && base->configuration.count == 0;
    return base->term > 0 && raft_configuration_validate(&base->configuration) == 0;
}

int raft_new(const struct raft_options *options, struct raft **ret_raft)
{
    cleanup(raft_freep) struct raft *raft = calloc(1, sizeof(*raft));
    int r;

    if (!raft)
        return -ENOMEM;
    raft->options = *options;
    r = options_complete(&raft->options);
    if (r < 0)
        return r;
    if (!options_sound(&raft->options))
        return -EBADMSG;

    raft->hard = raft->hard_durable = options->hard_state;
    raft->log.base = options->base;
    raft->applied = raft->commit = raft->options.applied;
    raft->handed = raft->durable = options->base.index;
    *ret_raft = take_ptr(raft);
    return 0;
}

void raft_free(struct raft *raft)
{
    if (!raft)
        return;
    raft_outbox_done(raft);
    raft_incoming_drop(raft);
    raft_log_done(&raft->log);
    free(raft);
}

static bool restorable(const struct raft *raft, uint64_t index, const struct raft_view *entry)
{
    struct raft_configuration configuration;

    if (raft->options.witness || index != raft_last(raft) + 1)
        return false;
    if (entry->term < raft_log_last_term(&raft->log) || entry->term > raft->hard.term)
        return false;
    if (entry->type < RAFT_NORMAL || entry->type > RAFT_NOOP || entry->size > RAFT_ENTRY_BYTES_MAX)
        return false;
    if (entry->type != RAFT_CONFIGURATION)
        return true;
    return raft_configuration_decode(entry->data, entry->size, &configuration) == 0 &&
           configuration.count > 0;
}

int raft_restore(struct raft *raft, uint64_t index, const struct raft_view *view)
{
    struct raft_entry *entry;
    int r;

    assert(!raft->started);
    if (!restorable(raft, index, view))
        return -EBADMSG;
    r = raft_log_reserve(&raft->log, 1);
    if (r < 0)
        return r;
    entry = raft_entry_new(index, view);
    if (!entry)
        return -ENOMEM;
    raft_log_append(&raft->log, entry);
    raft->handed = raft->durable = index;
    return 0;
}

int raft_start(struct raft *raft, uint64_t now_ns)
{
    assert(!raft->started);
    if (raft->applied > raft_last(raft))
        return -EBADMSG;

    raft->started = true;
    raft->now_ns = raft->heard_ns = now_ns;
    raft_configuration_changed(raft);
    raft_restart_election_timer(raft);
    if (raft_votes(raft) && raft_quorum(raft) == 1)
        raft_stand(raft, true); /* nobody to wait for */
    raft_check(raft);
    return 0;
}

void raft_check(const struct raft *raft)
{
    uint64_t last = raft_last(raft);

    assert(raft->log.base.index <= raft->applied);
    assert(raft->applied <= raft->commit);
    assert(raft->commit <= last);
    assert(raft->handed <= last);
    assert(raft->durable <= raft->handed);
    assert(raft->durable >= raft->log.base.index || raft->install || raft->writing.install);
    assert(raft->hard_durable.term <= raft->hard.term);
    assert(raft_log_last_term(&raft->log) <= raft->hard.term);
    assert(raft->configuration_index >= raft->log.base.index);
    if (!raft_leads(raft))
        return;
    assert(raft->leader == raft->options.id);
    assert(raft->hard_durable.term == raft->hard.term);
    assert(raft->term_start > 0);
    assert(raft->read_count <= RAFT_READS_MAX);
}

struct peer *raft_peer(struct raft *raft, uint64_t id)
{
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].id == id)
            return &raft->peers[i];
    return NULL;
}

void raft_restart_election_timer(struct raft *raft)
{
    uint64_t spread =
        raft->options.election_timeout_max_ns - raft->options.election_timeout_min_ns + 1;

    raft->election_deadline_ns = raft->now_ns + raft->options.election_timeout_min_ns +
                                 raft->options.random(raft->options.random_arg) % spread;
}

void raft_follow(struct raft *raft, uint64_t term, uint64_t leader)
{
    assert(term >= raft->hard.term);
    if (term > raft->hard.term) {
        raft->hard.term = term;
        raft->hard.vote = 0;
        raft_drop_held(raft); /* R1 */
    }
    if (raft_leads(raft)) {
        SOMETIMES_IF(raft->commit < raft_last(raft),
                     "raft: a leader goes with entries uncommitted");
        raft->heard_ns = raft->now_ns; /* itself: its leases count from here at the latest */
        raft->transfer_target = 0;
        raft_leader_fail_reads(raft);
        raft_restart_election_timer(raft);
    }
    raft->state = RAFT_FOLLOWER;
    raft->leader = leader;
    if (leader != 0) {
        raft->heard_ns = raft->now_ns;
        raft_restart_election_timer(raft);
    }
}

void raft_truncate(struct raft *raft, uint64_t from)
{
    assert(from > raft->commit);
    raft_log_truncate(&raft->log, from);
    if (raft->handed >= from) {
        raft->handed = from - 1;
        raft->truncate_from = raft->truncate_from ? MIN(raft->truncate_from, from) : from;
    }
    raft->durable = MIN(raft->durable, from - 1);
    raft->writing.last = MIN(raft->writing.last, from - 1);
    if (raft->configuration_index >= from)
        raft_configuration_changed(raft);
}

void raft_append(struct raft *raft, struct raft_entry *entry)
{
    raft_log_append(&raft->log, entry);
    if (entry->type == RAFT_CONFIGURATION)
        raft_configuration_changed(raft);
}

int raft_append_new(struct raft *raft, enum raft_entry_type type, const void *data, size_t size)
{
    struct raft_view view = {
        .term = raft->hard.term, .type = type, .size = (uint32_t)size, .data = data};
    struct raft_entry *entry;
    int r;

    r = raft_log_reserve(&raft->log, 1);
    if (r < 0)
        return r;
    entry = raft_entry_new(raft_last(raft) + 1, &view);
    if (!entry)
        return -ENOMEM;
    raft_append(raft, entry);
    raft->uncommitted_bytes += size;
    return 0;
}

void raft_commit_to(struct raft *raft, uint64_t index)
{
    assert(index <= raft_last(raft));
    if (index > raft->commit)
        raft->commit_ns = raft->now_ns;
    for (; raft->commit < index; raft->commit++)
        if (raft_leads(raft))
            raft->uncommitted_bytes -= raft_log_entry(&raft->log, raft->commit + 1)->size;
}

uint64_t raft_quorum_value(const struct raft *raft, uint64_t own,
                           uint64_t (*value)(const struct raft *raft, const struct peer *peer))
{
    uint64_t values[RAFT_VOTERS_MAX + 1]; /* falling */
    uint32_t count = 0, quorum = raft_quorum(raft);

    for (uint32_t i = 0; i <= raft->peer_count; i++) {
        bool self = i == raft->peer_count;
        uint64_t next, at;

        if (self ? !raft_votes(raft) : !peer_votes(&raft->peers[i]))
            continue;
        assert(count < ARRAY_SIZE(values));
        next = self ? own : value(raft, &raft->peers[i]);
        for (at = count++; at > 0 && values[at - 1] < next; at--)
            values[at] = values[at - 1];
        values[at] = next;
    }
    return count >= quorum ? values[quorum - 1] : 0;
}

static bool speaks_for_leader(enum raft_message_type type)
{
    return type == RAFT_APPEND || type == RAFT_HEARTBEAT || type == RAFT_SNAPSHOT ||
           type == RAFT_VOUCH || type == RAFT_TIMEOUT_NOW;
}

static bool asks_for_vote(enum raft_message_type type)
{
    return type == RAFT_PRE_VOTE || type == RAFT_VOTE;
}

/* Is this a message that a peer in its right mind sends us? */
static bool admissible(const struct raft *raft, const struct raft_message *message)
{
    enum raft_message_type type = message->type;

    if (message->to != raft->options.id || message->from == raft->options.id || message->from == 0)
        return false;
    if (message->term > RAFT_NUMBER_MAX)
        return false;
    if (raft->options.witness)
        return asks_for_vote(type) || type == RAFT_HEARTBEAT || type == RAFT_VOUCH;
    return type != RAFT_VOUCH;
}

/* A leader or candidate of an earlier term learns that it is one. */
static int answer_stale(struct raft *raft, const struct raft_message *message)
{
    struct raft_message answer = {0};

    if (message->type == RAFT_VOTE) {
        answer.type = RAFT_VOTE_ANSWER;
        answer.vote_answer.request_term = message->term;
    } else if (speaks_for_leader(message->type)) {
        answer.type = RAFT_HEARTBEAT_ANSWER;
        answer.heartbeat_answer.request_term = message->term;
    } else {
        return 0; /* an answer to what we asked in an earlier term */
    }
    raft_send(raft, message->from, &answer, 0);
    return 0;
}

static int on_timeout_now(struct raft *raft)
{
    if (raft_may_stand(raft))
        raft_stand(raft, true);
    return 0;
}

static int dispatch_request(struct raft *raft, const struct raft_message *message)
{
    if (message->type == RAFT_VOTE)
        return raft_on_vote(raft, message);

    if (raft_leads(raft) || (raft->leader != 0 && raft->leader != message->from))
        return -EPROTO; /* a second leader in one term */
    raft_follow(raft, message->term, message->from);
    if (message->type == RAFT_APPEND)
        return raft_on_append(raft, message);
    if (message->type == RAFT_HEARTBEAT)
        return raft_on_heartbeat(raft, message);
    if (message->type == RAFT_SNAPSHOT)
        return raft_on_snapshot(raft, message);
    if (message->type == RAFT_VOUCH)
        return raft_on_vouch(raft, message);
    return on_timeout_now(raft);
}

static int dispatch_answer(struct raft *raft, const struct raft_message *message)
{
    struct peer *peer = raft_peer(raft, message->from);

    assert(peer); /* receive() looked */
    if (message->type == RAFT_VOTE_ANSWER || message->type == RAFT_PRE_VOTE_ANSWER)
        return raft_on_vote_answer(raft, message);
    if (!raft_leads(raft))
        return 0;
    if (message->type == RAFT_APPEND_ANSWER)
        return raft_on_append_answer(raft, peer, message);
    if (message->type == RAFT_HEARTBEAT_ANSWER)
        return raft_on_heartbeat_answer(raft, peer, message);
    if (message->type == RAFT_SNAPSHOT_ANSWER)
        return raft_on_snapshot_answer(raft, peer, message);
    assert(message->type == RAFT_VOUCH_ANSWER);
    return raft_on_vouch_answer(raft, peer, message);
}

static int receive(struct raft *raft, const struct raft_message *message)
{
    bool leader = speaks_for_leader(message->type);
    bool request = leader || asks_for_vote(message->type);

    if (!admissible(raft, message))
        return -EPROTO;
    if (message->type == RAFT_PRE_VOTE)
        return raft_on_pre_vote(raft, message); /* whatever the terms: it changes nothing */
    if (message->type == RAFT_VOTE && message->term > raft->hard.term && !message->vote.forced &&
        raft_protects_leader(raft)) {
        SOMETIMES("raft: a vote is not even considered, the leader is heard");
        return 0; /* a node that was removed, or cut off, disturbs nobody */
    }
    if (!request && !raft_peer(raft, message->from))
        return 0; /* not one of ours any more */

    if (message->term > raft->hard.term)
        raft_follow(raft, message->term, leader ? message->from : 0);
    else if (message->term < raft->hard.term && message->type != RAFT_PRE_VOTE_ANSWER)
        return answer_stale(raft, message);
    return request ? dispatch_request(raft, message) : dispatch_answer(raft, message);
}

static void touch(struct raft *raft, uint64_t now_ns)
{
    assert(raft->started);
    raft->now_ns = MAX(raft->now_ns, now_ns);
}

int raft_receive(struct raft *raft, uint64_t now_ns, const struct raft_message *message)
{
    int r;

    touch(raft, now_ns);
    r = receive(raft, message);
    raft_check(raft);
    return r;
}

void raft_tick(struct raft *raft, uint64_t now_ns)
{
    bool voting = raft->state == RAFT_CANDIDATE && raft->hard_durable.term < raft->hard.term;

    touch(raft, now_ns);
    if (raft_leads(raft))
        raft_leader_tick(raft);
    else if (!raft_may_stand(raft) || raft->now_ns < raft->election_deadline_ns)
        return;
    else if (voting)
        raft_restart_election_timer(raft); /* our own disk is slow: nobody was asked yet */
    else
        raft_stand(raft, false);
    raft_check(raft);
}

uint64_t raft_next_tick_ns(const struct raft *raft)
{
    if (raft_leads(raft))
        return raft->heartbeat_due_ns;
    return raft_may_stand(raft) ? raft->election_deadline_ns : UINT64_MAX;
}

void raft_persisted(struct raft *raft, uint64_t now_ns, uint64_t batch)
{
    struct writing *writing = &raft->writing;

    touch(raft, now_ns);
    assert(batch != 0);
    assert(batch == writing->batch);
    raft->hard_durable = writing->hard_state;
    raft->durable = MAX(raft->durable, writing->last);
    for (size_t i = 0; i < writing->entry_count; i++)
        raft_entry_put(writing->entries[i]);
    free(writing->entries);
    *writing = (struct writing){0};

    raft_election_persisted(raft);
    if (raft_leads(raft))
        raft_leader_commit(raft);
    raft_check(raft);
}

void raft_peer_down(struct raft *raft, uint64_t now_ns, uint64_t id)
{
    struct peer *peer = raft_peer(raft, id);

    touch(raft, now_ns);
    if (raft_leads(raft) && peer) {
        peer->down = true;
        raft_witness_presence(raft, peer);
    } else if (raft->leader == id) {
        uint64_t soon = raft->options.random(raft->options.random_arg) % raft->options.heartbeat_ns;

        raft->leader = 0;
        raft->election_deadline_ns = MIN(raft->election_deadline_ns, raft->now_ns + soon);
    }
}

int raft_propose(struct raft *raft, uint64_t now_ns, const void *data, size_t size,
                 uint64_t *ret_index, uint64_t *ret_term)
{
    int r;

    touch(raft, now_ns);
    if (!raft_leads(raft))
        return -ESTALE;
    if (size > RAFT_ENTRY_BYTES_MAX)
        return -EINVAL;
    if (raft->transfer_target != 0 || raft_last(raft) - raft->commit >= RAFT_UNCOMMITTED_MAX)
        return -EAGAIN;
    if (raft->uncommitted_bytes + size > RAFT_UNCOMMITTED_BYTES_MAX ||
        raft->log.bytes + size > raft->options.log_bytes_max)
        return -EAGAIN;
    r = raft_append_new(raft, RAFT_NORMAL, data, size);
    if (r < 0)
        return r;
    if (ret_index)
        *ret_index = raft_last(raft);
    if (ret_term)
        *ret_term = raft->hard.term;
    return 0;
}

static uint32_t committed_copies(const struct raft *raft)
{
    uint32_t copies = raft_votes(raft) && raft->durable >= raft->commit;

    for (uint32_t i = 0; i < raft->peer_count; i++) {
        const struct peer *peer = &raft->peers[i];

        copies += peer->role == RAFT_VOTER && !peer->lost && peer->match >= raft->commit;
    }
    return copies;
}

void raft_status(const struct raft *raft, struct raft_status *ret_status)
{
    *ret_status = (struct raft_status){
        .id = raft->options.id,
        .role = {.state = raft->state, .term = raft->hard.term, .leader = raft->leader},
        .last_index = raft_last(raft),
        .durable_index = raft->durable,
        .commit_index = raft->commit,
        .applied_index = raft->applied,
        .base_index = raft->log.base.index,
        .log_bytes = raft->log.bytes,
        .configuration_index = raft->configuration_index,
        .configuration = raft->configuration,
    };
    if (!raft_leads(raft))
        return;
    ret_status->quorum_round_ns = raft->quorum_round_ns;
    ret_status->elected_ns = raft->elected_ns;
    ret_status->predecessor_heard_ns = raft->predecessor_heard_ns;
    ret_status->term_committed = raft_term_committed(raft);
    ret_status->committed_copies = committed_copies(raft);
}

int raft_peer_status(const struct raft *raft, uint64_t id, struct raft_peer_status *ret_status)
{
    const struct peer *peer = raft_peer((struct raft *)raft, id);

    if (!raft_leads(raft))
        return -ESTALE;
    if (!peer)
        return -ENOENT;
    *ret_status = (struct raft_peer_status){
        .role = peer->role,
        .match = peer->match,
        .heard_ns = peer->heard_ns,
        .away = peer->role == RAFT_VOTER && peer->away,
        .snapshot = peer->mode == PEER_SNAPSHOT,
        .lost = peer->lost,
    };
    return 0;
}
