/* raft_follower: what a follower does with its leader's word. raft_receive() has made sure that
 * message->from leads the present term. Rule R2 lives here; libraft 0.15 lost committed entries for
 * want of it. */
#include "s2d/cluster/raft_internal.h"

static void refuse(struct raft *raft, const struct raft_message *message)
{
    uint64_t hint =
        raft_log_agreeing(&raft->log, message->append.prev_index, message->append.prev_term);
    struct raft_message answer = {
        .type = RAFT_APPEND_ANSWER,
        .append_answer = {.request_term = message->term,
                          .request = message->append.request,
                          .accepted = false,
                          .index = message->append.prev_index,
                          .hint_index = hint,
                          .hint_term = raft_log_term(&raft->log, hint),
                          .last_index = raft_last(raft),
                          .commit = raft->commit},
    };

    raft_send(raft, message->from, &answer, 0);
}

static void accept(struct raft *raft, const struct raft_message *message, uint64_t index)
{
    struct raft_message answer = {
        .type = RAFT_APPEND_ANSWER,
        .append_answer = {.request_term = message->term,
                          .request = message->append.request,
                          .accepted = true,
                          .index = index,
                          .last_index = raft_last(raft),
                          .commit = raft->commit},
    };

    raft_send(raft, message->from, &answer, raft_batch_of_index(raft, index));
}

/* What lies at or before the base is committed, here and at the leader. */
static bool holds_prev(const struct raft *raft, const struct raft_message *message)
{
    uint64_t index = message->append.prev_index;

    if (index < raft->log.base.index)
        return true;
    return index <= raft_last(raft) &&
           raft_log_term(&raft->log, index) == message->append.prev_term;
}

/* How many of the message's entries the log holds already, from the first on. */
static uint32_t known_entries(const struct raft *raft, const struct raft_message *message)
{
    uint32_t known = 0;

    while (known < message->append.entry_count) {
        uint64_t index = message->append.prev_index + 1 + known;

        if (index > raft_last(raft) || (PLANTED(RAFT_CUTS_KNOWN) && index > raft->commit))
            break;
        if (index >= raft->log.base.index &&
            raft_log_term(&raft->log, index) != message->append.entries[known].term)
            break;
        known++;
    }
    return known;
}

static int make_entries(const struct raft_message *message, uint32_t from,
                        struct raft_entry *entries[RAFT_MESSAGE_ENTRIES_MAX])
{
    for (uint32_t i = from; i < message->append.entry_count; i++) {
        entries[i] =
            raft_entry_new(message->append.prev_index + 1 + i, &message->append.entries[i]);
        if (entries[i])
            continue;
        while (i > from)
            raft_entry_put(entries[--i]);
        return -ENOMEM;
    }
    return 0;
}

/* Makes the log agree with the message. Nothing has changed when it fails. */
static int take_entries(struct raft *raft, const struct raft_message *message)
{
    struct raft_entry *entries[RAFT_MESSAGE_ENTRIES_MAX];
    uint32_t known = known_entries(raft, message);
    uint64_t from = message->append.prev_index + 1 + known;
    int r;

    if (known == message->append.entry_count)
        return 0;
    if (from <= raft->commit)
        return -EPROTO; /* it contradicts what is committed */
    if (message->append.entries[known].term < raft_log_term(&raft->log, from - 1))
        return -EPROTO;
    r = raft_log_reserve(&raft->log, message->append.entry_count - known);
    if (r < 0)
        return r;
    r = make_entries(message, known, entries);
    if (r < 0)
        return r;
    SOMETIMES_IF(from <= raft_last(raft), "raft: a suffix that was never committed is cut off");
    if (from <= raft_last(raft))
        raft_truncate(raft, from);
    for (uint32_t i = known; i < message->append.entry_count; i++)
        raft_append(raft, entries[i]);
    return 0;
}

int raft_on_append(struct raft *raft, const struct raft_message *message)
{
    uint64_t index = message->append.prev_index + message->append.entry_count;
    int r;

    if (message->append.entry_count > RAFT_MESSAGE_ENTRIES_MAX)
        return -EPROTO;
    if (!holds_prev(raft, message)) {
        SOMETIMES("raft: a follower refuses an append");
        refuse(raft, message);
        /* It contradicts what is committed: one of the two stores is broken. The refusal tells the
         * leader. */
        return message->append.prev_index <= raft->commit ? -EPROTO : 0;
    }
    r = take_entries(raft, message);
    if (r < 0)
        return r;
    if (planted(raft, RAFT_ACK_LAST_STORED) || planted(raft, RAFT_COMMIT_LAST_STORED)) {
        if (planted(raft, RAFT_COMMIT_LAST_STORED))
            raft_commit_to(raft, MIN(message->append.commit, raft_last(raft)));
        index = raft_last(raft);
    }
    raft_commit_to(raft, MIN(message->append.commit, index));
    accept(raft, message, index);
    return 0;
}

int raft_on_heartbeat(struct raft *raft, const struct raft_message *message)
{
    bool vouched = raft->hard.vouched_term == raft->hard.term;
    uint64_t last = raft->options.witness ? vouched * raft->hard.vouched_index : raft_last(raft);
    struct raft_message answer = {
        .type = RAFT_HEARTBEAT_ANSWER,
        .heartbeat_answer = {.request_term = message->term,
                             .round = message->heartbeat.round,
                             .last_index = last,
                             .commit = raft->commit},
    };

    raft_send(raft, message->from, &answer, 0);
    return 0;
}
