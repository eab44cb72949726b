#include "tests/unit/raft_harness_internal.h"

#include <stdarg.h>
#include <stdio.h>

void harness_trace(const struct harness *harness, const char *format, ...)
{
    va_list arguments;

    if (!harness->options.trace)
        return;
    printf("%10.3f ", (double)harness->now_ns / (double)MS);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
}

void harness_violated(struct harness *harness, const char *format, ...)
{
    va_list arguments;

    if (harness->violation[0])
        return;
    va_start(arguments, format);
    vsnprintf(harness->violation, sizeof(harness->violation), format, arguments);
    va_end(arguments);
    harness_trace(harness, "VIOLATION %s", harness->violation);
}

uint64_t harness_hash(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint64_t hash = size;

    for (size_t i = 0; i < size; i++)
        hash = harness_mix(hash ^ at[i]) + i;
    return hash;
}

static struct entry_ghost *entry_ghost(struct harness *harness, uint64_t index, uint64_t term)
{
    uint64_t slot = harness_mix(index * 65537 + term);

    for (;; slot++) {
        struct entry_ghost *ghost = &harness->entries[slot % ARRAY_SIZE(harness->entries)];

        if (ghost->term == 0 || (ghost->index == index && ghost->term == term))
            return ghost;
    }
}

/* Log matching, by induction: an (index, term) always has the same payload and the same
 * predecessor. */
static void check_entry(struct harness *harness, const struct node *node, uint64_t index)
{
    const struct raft_entry *entry = raft_log_entry(&node->raft->log, index);
    uint64_t before_term = raft_log_term(&node->raft->log, index - 1);
    uint64_t hash = harness_hash(entry->data, entry->size) + entry->type;
    struct entry_ghost *ghost = entry_ghost(harness, index, entry->term);

    if (ghost->term == 0)
        *ghost = (struct entry_ghost){index, entry->term, before_term, hash};
    if (ghost->hash != hash || ghost->before_term != before_term)
        harness_violated(harness, "log matching: node %" PRIu64 " index %" PRIu64 " term %" PRIu64,
                         node->id, index, entry->term);
}

static void check_log(struct harness *harness, struct node *node)
{
    struct raft *raft = node->raft;
    uint64_t last = raft_last(raft), last_term = raft_log_last_term(&raft->log);

    if (node->seen_last == last && node->seen_last_term == last_term &&
        node->seen_base == raft->log.base.index)
        return;
    for (uint64_t index = raft->log.base.index + 1; index <= last; index++)
        check_entry(harness, node, index);
    node->seen_last = last;
    node->seen_last_term = last_term;
    node->seen_base = raft->log.base.index;
}

static void check_holds(struct harness *harness, const struct node *node, uint64_t index)
{
    const struct raft_log *log = &node->raft->log;

    if (index <= log->base.index)
        return;
    if (raft_log_term(log, index) != harness->commits[index].term)
        harness_violated(harness,
                         "leader completeness: leader %" PRIu64 " of term %" PRIu64
                         " lacks index %" PRIu64,
                         node->id, node->raft->hard.term, index);
}

static void note_commit(struct harness *harness, const struct node *node, uint64_t index)
{
    const struct raft_entry *entry = raft_log_entry(&node->raft->log, index);
    struct commit_ghost *ghost = &harness->commits[index];
    uint64_t hash = harness_hash(entry->data, entry->size) + entry->type;

    if (ghost->term != 0) {
        if (ghost->term != entry->term || ghost->hash != hash)
            harness_violated(
                harness, "state machine safety: node %" PRIu64 " commits another index %" PRIu64,
                node->id, index);
        ghost->in_term = MIN(ghost->in_term, node->raft->hard.term);
        return;
    }
    *ghost =
        (struct commit_ghost){.term = entry->term, .hash = hash, .in_term = node->raft->hard.term};
    if (entry->type == RAFT_NORMAL)
        memcpy(&ghost->value, entry->data, sizeof(ghost->value));
    harness->commit = MAX(harness->commit, index);
    for (unsigned id = 1; id <= harness->options.nodes; id++) {
        const struct node *other = &harness->nodes[id];

        if (other->raft && raft_leads(other->raft) && other->raft->hard.term > ghost->in_term)
            check_holds(harness, other, index);
    }
}

static void check_commit(struct harness *harness, struct node *node)
{
    struct raft *raft = node->raft;
    uint64_t from = MAX(node->seen_commit, raft->log.base.index);

    for (uint64_t index = from + 1; index <= raft->commit; index++)
        note_commit(harness, node, index);
    node->seen_commit = raft->commit;
}

static void check_new_leader(struct harness *harness, struct node *node)
{
    struct raft *raft = node->raft;
    uint64_t term = raft->hard.term;

    harness_trace(harness, "node %" PRIu64 " leads term %" PRIu64 " from index %" PRIu64, node->id,
                  term, raft->term_start);
    if (harness->leaders[term] != 0 && harness->leaders[term] != node->id)
        harness_violated(harness, "election safety: %" PRIu64 " and %" PRIu64 " lead term %" PRIu64,
                         harness->leaders[term], node->id, term);
    harness->leaders[term] = node->id;
    harness->term_max = MAX(harness->term_max, term);
    harness->predecessor_heard[term] = raft->predecessor_heard_ns > node->clock_ns
                                           ? raft->predecessor_heard_ns - node->clock_ns
                                           : 0;
    for (uint64_t index = 1; index <= harness->commit; index++)
        if (harness->commits[index].term != 0 && harness->commits[index].in_term < term)
            check_holds(harness, node, index);
    node->led_term = term;
    node->led_last = 0;
}

/* A lease of this leader is counted from quorum_round_ns; its successors think it is not later than
 * they heard. */
static void check_lease(struct harness *harness, const struct node *node)
{
    uint64_t round_ns = node->raft->quorum_round_ns;

    if (round_ns == 0)
        return;
    round_ns -= node->clock_ns;
    for (uint64_t term = node->raft->hard.term + 1; term <= harness->term_max; term++)
        if (harness->leaders[term] != 0 && harness->predecessor_heard[term] < round_ns)
            harness_violated(harness,
                             "leases: term %" PRIu64 " may count from %" PRIu64 ", term %" PRIu64
                             " thinks %" PRIu64,
                             node->raft->hard.term, round_ns, term,
                             harness->predecessor_heard[term]);
}

static void check_leader(struct harness *harness, struct node *node)
{
    struct raft *raft = node->raft;

    if (!raft_leads(raft))
        return;
    if (node->led_term != raft->hard.term)
        check_new_leader(harness, node);
    if (raft_last(raft) < node->led_last ||
        (node->led_last > raft->log.base.index &&
         raft_log_term(&raft->log, node->led_last) != node->led_last_term))
        harness_violated(harness, "leader append-only: node %" PRIu64, node->id);
    node->led_last = raft_last(raft);
    node->led_last_term = raft_log_last_term(&raft->log);
    check_lease(harness, node);
}

/* Two full voters and a witness: whoever counts as present holds what the witness would ask of it.
 */
static void check_witness(struct harness *harness, const struct node *leader)
{
    const struct raft_hard_state *hard = &harness->nodes[harness->options.witness].disk.hard;

    if (harness->options.witness == 0 || !raft_leads(leader->raft) || !raft_votes(leader->raft))
        return;
    if (raft_configuration_votes(&leader->raft->configuration) != 3 ||
        raft_configuration_role(&leader->raft->configuration, harness->options.witness) !=
            RAFT_WITNESS)
        return;
    for (uint32_t i = 0; i < leader->raft->peer_count; i++) {
        const struct peer *peer = &leader->raft->peers[i];
        const struct disk *disk = &harness->nodes[peer->id].disk;
        uint64_t term =
            disk->last > disk->base.index ? disk->log[disk->last].term : disk->base.term;

        if (peer->role != RAFT_VOTER || peer->away)
            continue;
        if (term < hard->vouched_term ||
            (term == hard->vouched_term && disk->last < hard->vouched_index))
            harness_violated(harness, "witness: node %" PRIu64 " is present, yet could not win",
                             peer->id);
    }
}

void harness_check_node(struct harness *harness, struct node *node)
{
    if (!node->raft || harness->violation[0])
        return;
    if (node->raft->hard.term >= TERMS_MAX || raft_last(node->raft) >= LOG_MAX) {
        harness_violated(harness, "harness: more terms or entries than it can follow");
        return;
    }
    check_log(harness, node);
    check_commit(harness, node);
    check_leader(harness, node);
    check_witness(harness, node);
}

/* What a message promises must be on the sender's disk. */
void harness_check_promise(struct harness *harness, const struct node *node,
                           const struct raft_message *message)
{
    const struct disk *disk = &node->disk;

    if (message->term > disk->hard.term)
        harness_violated(harness, "durability: node %" PRIu64 " shows term %" PRIu64, node->id,
                         message->term);
    if (message->type == RAFT_VOTE_ANSWER && message->vote_answer.granted) {
        uint64_t *vote = &harness->votes[node->id][message->term];

        if (*vote != 0 && *vote != message->to)
            harness_violated(harness,
                             "election safety: node %" PRIu64 " votes twice in term %" PRIu64,
                             node->id, message->term);
        *vote = message->to;
        if (disk->hard.term == message->term && disk->hard.vote != message->to)
            harness_violated(harness, "durability: vote of node %" PRIu64, node->id);
    }
    if (message->type == RAFT_APPEND_ANSWER && message->append_answer.accepted &&
        message->append_answer.index > disk->last)
        harness_violated(harness, "durability: node %" PRIu64 " acknowledges %" PRIu64, node->id,
                         message->append_answer.index);
    if (message->type == RAFT_VOUCH_ANSWER &&
        (disk->hard.vouched_term < message->term ||
         disk->hard.vouched_index < message->vouch_answer.index))
        harness_violated(harness, "durability: the witness vouches for %" PRIu64,
                         message->vouch_answer.index);
}
