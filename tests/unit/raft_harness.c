#include "tests/unit/raft_harness.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define PACKETS_MAX 4096
#define LOG_MAX 2048 /* the highest index in a schedule */
#define TERMS_MAX 512
#define READS_MAX 4096
#define CHUNK_BYTES 24 /* small: a snapshot takes several */
#define SNAPSHOT_WORDS 10
#define NEVER UINT64_MAX

/* The replicated state: the last applied index and a hash of all that was applied. */
struct state {
    uint64_t index;
    uint64_t hash;
};

struct stored_entry {
    uint64_t term;
    enum raft_entry_type type;
    uint32_t size;
    uint8_t data[RAFT_CONFIGURATION_BYTES_MAX];
};

struct disk {
    struct raft_hard_state hard;
    struct raft_snapshot base;
    struct state state;
    uint64_t last;
    struct stored_entry *log; /* by index */
};

struct node {
    uint64_t id;
    struct raft *raft; /* NULL: down */
    struct disk disk;
    uint64_t clock_ns; /* its clock minus ours */
    uint64_t disk_latency_ns;
    struct state state;

    struct raft_persist writing; /* batch 0: none */
    struct state writing_state;
    uint64_t writing_done_ns;

    uint8_t staged[SNAPSHOT_WORDS * 8];
    size_t staged_size;
    uint64_t chunk_done_ns; /* NEVER: none */
    bool chunk_last;
    struct state sending; /* the snapshot it sends, if any */
    struct raft_snapshot sending_snapshot;

    /* as of the last check */
    uint64_t seen_last, seen_last_term, seen_base, seen_commit;
    uint64_t led_term, led_last, led_last_term;
};

struct flight {
    uint64_t from, to, deliver_ns;
    size_t size;
    uint8_t *bytes;
};

struct entry_ghost {
    uint64_t index, term; /* term 0: free slot */
    uint64_t before_term;
    uint64_t hash;
};

struct commit_ghost {
    uint64_t term; /* of the entry; 0: not committed */
    uint64_t hash;
    uint64_t value;
    uint64_t in_term; /* the lowest term in which somebody knew */
};

struct harness {
    struct harness_options options;
    struct harness_faults faults;
    uint64_t random;
    uint64_t now_ns;
    uint64_t steps;
    struct node nodes[HARNESS_NODES_MAX + 1];
    bool cut[HARNESS_NODES_MAX + 1][HARNESS_NODES_MAX + 1];
    struct flight packets[PACKETS_MAX];
    unsigned packet_count;

    char violation[256];
    uint64_t term_max; /* that had a leader */
    uint64_t leaders[TERMS_MAX];
    uint64_t predecessor_heard[TERMS_MAX]; /* in our time, by term of the leader */
    uint64_t votes[HARNESS_NODES_MAX + 1][TERMS_MAX];
    struct entry_ghost entries[4 * LOG_MAX];
    struct commit_ghost commits[LOG_MAX];
    uint64_t commit;
    uint64_t state_hash[LOG_MAX]; /* after an index; 0: not known */
    uint64_t reads[READS_MAX];    /* context → what was committed when it was asked */
    uint64_t read_count;

    unsigned lost_reports[HARNESS_NODES_MAX + 1];
    unsigned reads_answered;
    unsigned snapshots_installed;
    unsigned messages[RAFT_TIMEOUT_NOW + 1];
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t random_next(void *arg)
{
    struct harness *harness = arg;

    harness->random += 0x9e3779b97f4a7c15u;
    return mix(harness->random);
}

uint64_t harness_random(struct harness *harness, uint64_t below)
{
    return below > 0 ? random_next(harness) % below : 0;
}

static bool chance(struct harness *harness, unsigned permille)
{
    return permille > 0 && harness_random(harness, 1000) < permille;
}

printf_like(2, 3) static void trace(const struct harness *harness, const char *format, ...)
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

printf_like(2, 3) static void violated(struct harness *harness, const char *format, ...)
{
    va_list arguments;

    if (harness->violation[0])
        return;
    va_start(arguments, format);
    vsnprintf(harness->violation, sizeof(harness->violation), format, arguments);
    va_end(arguments);
    trace(harness, "VIOLATION %s", harness->violation);
}

static uint64_t hash_bytes(const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint64_t hash = size;

    for (size_t i = 0; i < size; i++)
        hash = mix(hash ^ at[i]) + i;
    return hash;
}

static uint64_t node_clock(const struct harness *harness, const struct node *node)
{
    return harness->now_ns + node->clock_ns;
}

/* ---- Checks ---- */

static struct entry_ghost *entry_ghost(struct harness *harness, uint64_t index, uint64_t term)
{
    uint64_t slot = mix(index * 65537 + term);

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
    uint64_t hash = hash_bytes(entry->data, entry->size) + entry->type;
    struct entry_ghost *ghost = entry_ghost(harness, index, entry->term);

    if (ghost->term == 0)
        *ghost = (struct entry_ghost){index, entry->term, before_term, hash};
    if (ghost->hash != hash || ghost->before_term != before_term)
        violated(harness, "log matching: node %" PRIu64 " index %" PRIu64 " term %" PRIu64,
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
        violated(harness,
                 "leader completeness: leader %" PRIu64 " of term %" PRIu64 " lacks index %" PRIu64,
                 node->id, node->raft->hard.term, index);
}

static void note_commit(struct harness *harness, const struct node *node, uint64_t index)
{
    const struct raft_entry *entry = raft_log_entry(&node->raft->log, index);
    struct commit_ghost *ghost = &harness->commits[index];
    uint64_t hash = hash_bytes(entry->data, entry->size) + entry->type;

    if (ghost->term != 0) {
        if (ghost->term != entry->term || ghost->hash != hash)
            violated(harness,
                     "state machine safety: node %" PRIu64 " commits another index %" PRIu64,
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

    trace(harness, "node %" PRIu64 " leads term %" PRIu64 " from index %" PRIu64, node->id, term,
          raft->term_start);
    if (harness->leaders[term] != 0 && harness->leaders[term] != node->id)
        violated(harness, "election safety: %" PRIu64 " and %" PRIu64 " lead term %" PRIu64,
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
            violated(harness,
                     "leases: term %" PRIu64 " may count from %" PRIu64 ", term %" PRIu64
                     " thinks %" PRIu64,
                     node->raft->hard.term, round_ns, term, harness->predecessor_heard[term]);
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
        violated(harness, "leader append-only: node %" PRIu64, node->id);
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
            violated(harness, "witness: node %" PRIu64 " is present, yet could not win", peer->id);
    }
}

static void check_node(struct harness *harness, struct node *node)
{
    if (!node->raft || harness->violation[0])
        return;
    if (node->raft->hard.term >= TERMS_MAX || raft_last(node->raft) >= LOG_MAX) {
        violated(harness, "harness: more terms or entries than it can follow");
        return;
    }
    check_log(harness, node);
    check_commit(harness, node);
    check_leader(harness, node);
    check_witness(harness, node);
}

/* What a message promises must be on the sender's disk. */
static void check_promise(struct harness *harness, const struct node *node,
                          const struct raft_message *message)
{
    const struct disk *disk = &node->disk;

    if (message->term > disk->hard.term)
        violated(harness, "durability: node %" PRIu64 " shows term %" PRIu64, node->id,
                 message->term);
    if (message->type == RAFT_VOTE_ANSWER && message->vote_answer.granted) {
        uint64_t *vote = &harness->votes[node->id][message->term];

        if (*vote != 0 && *vote != message->to)
            violated(harness, "election safety: node %" PRIu64 " votes twice in term %" PRIu64,
                     node->id, message->term);
        *vote = message->to;
        if (disk->hard.term == message->term && disk->hard.vote != message->to)
            violated(harness, "durability: vote of node %" PRIu64, node->id);
    }
    if (message->type == RAFT_APPEND_ANSWER && message->append_answer.accepted &&
        message->append_answer.index > disk->last)
        violated(harness, "durability: node %" PRIu64 " acknowledges %" PRIu64, node->id,
                 message->append_answer.index);
    if (message->type == RAFT_VOUCH_ANSWER &&
        (disk->hard.vouched_term < message->term ||
         disk->hard.vouched_index < message->vouch_answer.index))
        violated(harness, "durability: the witness vouches for %" PRIu64,
                 message->vouch_answer.index);
}

/* ---- Network ---- */

static void post(struct harness *harness, const struct raft_message *message)
{
    struct harness_faults *faults = &harness->faults;
    struct flight *packet;
    uint64_t delay_ns = 1 + harness_random(harness, faults->delay_ns);

    if (chance(harness, faults->late_permille))
        delay_ns += harness_random(harness, faults->late_ns);
    if (harness->packet_count == PACKETS_MAX)
        return;
    packet = &harness->packets[harness->packet_count++];
    packet->from = message->from;
    packet->to = message->to;
    packet->deliver_ns = harness->now_ns + delay_ns;
    packet->size = raft_message_size(message);
    packet->bytes = malloc(packet->size);
    assert(packet->bytes);
    raft_message_encode(message, packet->bytes);
}

static void send_message(struct harness *harness, const struct node *node,
                         const struct raft_message *message)
{
    check_promise(harness, node, message);
    if (message->to == 0 || message->to > harness->options.nodes) {
        violated(harness, "harness: message to nobody");
        return;
    }
    if (chance(harness, harness->faults.loss_permille))
        return;
    post(harness, message);
    if (chance(harness, harness->faults.repeat_permille))
        post(harness, message);
}

/* ---- Disk and state machine ---- */

static void apply(struct harness *harness, struct node *node, const struct raft_entry *entry)
{
    if (entry->index != node->state.index + 1) {
        violated(harness, "apply: node %" PRIu64 " is given %" PRIu64 " after %" PRIu64, node->id,
                 entry->index, node->state.index);
        return;
    }
    if (entry->index > node->disk.last)
        violated(harness, "apply: node %" PRIu64 " has not stored %" PRIu64, node->id,
                 entry->index);
    node->state.index = entry->index;
    node->state.hash = mix(node->state.hash ^ hash_bytes(entry->data, entry->size) ^ entry->term);
    if (harness->state_hash[entry->index] == 0)
        harness->state_hash[entry->index] = node->state.hash;
    if (harness->state_hash[entry->index] != node->state.hash)
        violated(harness, "state machine safety: state of node %" PRIu64 " at %" PRIu64, node->id,
                 entry->index);
}

static void state_to_bytes(const struct state *state, uint8_t bytes[SNAPSHOT_WORDS * 8])
{
    for (uint64_t i = 0; i < SNAPSHOT_WORDS; i++) {
        uint64_t word = i == 0 ? state->index : state->hash + i * i;

        memcpy(bytes + 8 * i, &word, 8);
    }
}

static bool state_from_bytes(const uint8_t bytes[SNAPSHOT_WORDS * 8], struct state *ret_state)
{
    struct state state;
    uint8_t again[SNAPSHOT_WORDS * 8];

    memcpy(&state.index, bytes, 8);
    memcpy(&state.hash, bytes + 8, 8);
    state.hash -= 1;
    state_to_bytes(&state, again);
    *ret_state = state;
    return memcmp(again, bytes, sizeof(again)) == 0;
}

static void begin_write(struct harness *harness, struct node *node,
                        const struct raft_persist *persist)
{
    struct harness_faults *faults = &harness->faults;
    uint64_t latency_ns = 1 + harness_random(harness, faults->disk_ns);

    if (chance(harness, faults->slow_disk_permille))
        latency_ns += harness_random(harness, faults->slow_disk_ns);
    if (node->disk_latency_ns != 0)
        latency_ns = node->disk_latency_ns;
    node->writing = *persist;
    node->writing_done_ns = harness->now_ns + latency_ns;
    if (persist->install) {
        if (!state_from_bytes(node->staged, &node->state) ||
            node->staged_size != sizeof(node->staged))
            violated(harness, "snapshot: node %" PRIu64 " installs a broken one", node->id);
        if (node->state.index != persist->base->index ||
            (harness->state_hash[node->state.index] != 0 &&
             harness->state_hash[node->state.index] != node->state.hash))
            violated(harness, "snapshot: node %" PRIu64 " installs another state", node->id);
        harness->snapshots_installed++;
        trace(harness, "node %" PRIu64 " installs the snapshot of %" PRIu64, node->id,
              persist->base->index);
    }
    node->writing_state = node->state; /* applying is part of the next batch */
}

/* The contract of struct raft_persist, step by step; the pointers in it must still be good. */
static void write_batch(struct harness *harness, struct node *node)
{
    const struct raft_persist *persist = &node->writing;
    struct disk *disk = &node->disk;

    if (persist->install)
        disk->last = persist->base->index;
    if (persist->base) {
        disk->base = *persist->base;
        if (disk->last < disk->base.index)
            violated(harness, "disk: node %" PRIu64 " has a base beyond its log", node->id);
    }
    if (persist->truncate_from != 0 && persist->truncate_from <= disk->last) {
        if (persist->truncate_from <= disk->base.index)
            violated(harness, "disk: node %" PRIu64 " truncates its base", node->id);
        disk->last = persist->truncate_from - 1;
    }
    for (size_t i = 0; i < persist->entry_count; i++) {
        const struct raft_entry *entry = persist->entries[i];
        struct stored_entry *stored = &disk->log[entry->index];

        if (entry->index != disk->last + 1)
            violated(harness, "disk: node %" PRIu64 " leaves a gap at %" PRIu64, node->id,
                     entry->index);
        *stored =
            (struct stored_entry){.term = entry->term, .type = entry->type, .size = entry->size};
        assert(entry->size <= sizeof(stored->data));
        memcpy(stored->data, entry->data, entry->size);
        disk->last = entry->index;
    }
    disk->hard = persist->hard_state;
    disk->state = node->writing_state;
}

static void maybe_compact(struct harness *harness, struct node *node)
{
    uint64_t every = harness->options.compact_every;

    if (every > 0 && node->disk.state.index >= node->raft->log.base.index + every)
        raft_compact(node->raft, node->disk.state.index);
}

static void send_chunk(struct harness *harness, struct node *node,
                       const struct raft_chunk_request *request)
{
    uint8_t bytes[SNAPSHOT_WORDS * 8];
    struct raft_chunk chunk = {.offset = request->offset};
    int r;

    /* Sometimes the snapshot begun is gone, and a new one starts over. */
    if (request->snapshot_index == 0 || request->snapshot_index != node->sending.index ||
        node->sending_snapshot.index < node->raft->log.base.index ||
        harness_random(harness, 20) == 0) {
        node->sending = node->state;
        r = raft_snapshot_at(node->raft, node->state.index, &node->sending_snapshot);
        assert(r == 0);
        chunk.offset = 0;
    }
    if (harness_random(harness, 20) == 0)
        return; /* no time now: it will be asked for again */
    state_to_bytes(&node->sending, bytes);
    chunk.snapshot = node->sending_snapshot;
    chunk.size = (uint32_t)MIN((uint64_t)CHUNK_BYTES, sizeof(bytes) - chunk.offset);
    chunk.done = chunk.offset + chunk.size == sizeof(bytes);
    chunk.data = bytes + chunk.offset;
    r = raft_send_chunk(node->raft, node_clock(harness, node), request->peer, &chunk);
    if (r != 0)
        violated(harness, "snapshot: node %" PRIu64 " may not send what it was asked for: %d",
                 node->id, r);
}

static void take_chunk(struct harness *harness, struct node *node, const struct raft_chunk *chunk)
{
    if (chunk->offset == 0)
        node->staged_size = 0;
    if (chunk->offset != node->staged_size || chunk->offset + chunk->size > sizeof(node->staged)) {
        violated(harness, "snapshot: node %" PRIu64 " is given pieces out of order", node->id);
        return;
    }
    memcpy(node->staged + chunk->offset, chunk->data, chunk->size);
    node->staged_size += chunk->size;
    node->chunk_last = chunk->done;
    node->chunk_done_ns = harness->now_ns + 1 + harness_random(harness, harness->faults.disk_ns);
}

static void finish_read(struct harness *harness, const struct node *node,
                        const struct raft_read *read)
{
    if (read->result != 0)
        return;
    harness->reads_answered++;
    if (read->index < harness->reads[read->context])
        violated(harness, "reads: node %" PRIu64 " answers %" PRIu64 ", committed was %" PRIu64,
                 node->id, read->index, harness->reads[read->context]);
}

/* The caller's loop of raft.h. */
static void pump(struct harness *harness, struct node *node)
{
    struct raft_ready ready;

    while (node->raft && !harness->violation[0] && raft_ready(node->raft, &ready)) {
        if (ready.persist.batch != 0)
            begin_write(harness, node, &ready.persist);
        for (size_t i = 0; i < ready.message_count; i++)
            send_message(harness, node, ready.messages[i]);
        for (size_t i = 0; i < ready.apply_count; i++)
            apply(harness, node, ready.apply[i]);
        for (size_t i = 0; i < ready.read_count; i++)
            finish_read(harness, node, &ready.reads[i]);
        for (size_t i = 0; i < ready.lost_count; i++)
            harness->lost_reports[ready.lost[i]]++;
        if (ready.chunk)
            take_chunk(harness, node, ready.chunk);
        for (size_t i = 0; i < ready.chunk_request_count; i++)
            send_chunk(harness, node, &ready.chunk_requests[i]);
    }
    check_node(harness, node);
}

/* ---- Events ---- */

static void trace_message(const struct harness *harness, const struct raft_message *message)
{
    uint64_t a = 0, b = 0, c = 0;

    if (message->type == RAFT_APPEND) {
        a = message->append.prev_index;
        b = message->append.entry_count;
        c = message->append.commit;
    } else if (message->type == RAFT_APPEND_ANSWER) {
        a = message->append_answer.accepted;
        b = message->append_answer.index;
        c = message->append_answer.hint_index;
    } else if (message->type == RAFT_VOTE || message->type == RAFT_PRE_VOTE) {
        a = message->vote.last_term;
        b = message->vote.last_index;
    } else if (message->type == RAFT_VOTE_ANSWER || message->type == RAFT_PRE_VOTE_ANSWER) {
        a = message->vote_answer.granted;
    } else if (message->type == RAFT_VOUCH || message->type == RAFT_VOUCH_ANSWER) {
        a = message->type == RAFT_VOUCH ? message->vouch.index : message->vouch_answer.index;
    }
    trace(harness,
          "%" PRIu64 " → %" PRIu64 " %s, term %" PRIu64 ": %" PRIu64 " %" PRIu64 " %" PRIu64,
          message->from, message->to, raft_message_name(message->type), message->term, a, b, c);
}

static void deliver(struct harness *harness, unsigned at)
{
    struct flight packet = harness->packets[at];
    cleanup(freep) void *bytes = packet.bytes;
    struct node *node = &harness->nodes[packet.to];
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message message;
    int r;

    harness->packets[at] = harness->packets[--harness->packet_count];
    if (!node->raft || harness->cut[packet.from][packet.to])
        return;
    r = raft_message_decode(bytes, packet.size, entries, &message);
    if (r == 0) {
        trace_message(harness, &message);
        harness->messages[message.type]++;
        r = raft_receive(node->raft, node_clock(harness, node), &message);
    }
    if (r != 0)
        violated(harness, "protocol: node %" PRIu64 " refuses a %s of %" PRIu64 ": %d", packet.to,
                 raft_message_name(message.type), packet.from, r);
    pump(harness, node);
}

static void finish_write(struct harness *harness, struct node *node)
{
    uint64_t batch = node->writing.batch;

    write_batch(harness, node);
    node->writing = (struct raft_persist){0};
    raft_persisted(node->raft, node_clock(harness, node), batch);
    maybe_compact(harness, node);
    pump(harness, node);
}

static void finish_chunk(struct harness *harness, struct node *node)
{
    struct state state;
    int result = harness_random(harness, 30) == 0 ? -EIO : 0;

    node->chunk_done_ns = NEVER;
    if (result == 0 && node->chunk_last && !state_from_bytes(node->staged, &state))
        result = -EBADMSG;
    raft_chunk_stored(node->raft, node_clock(harness, node), result);
    pump(harness, node);
}

static uint64_t tick_due(const struct node *node)
{
    uint64_t due = raft_next_tick_ns(node->raft);

    if (due == UINT64_MAX)
        return NEVER;
    return due > node->clock_ns ? due - node->clock_ns : 0;
}

struct event {
    uint64_t at_ns;
    enum { EVENT_NONE, EVENT_PACKET, EVENT_WRITE, EVENT_CHUNK, EVENT_TICK } kind;
    unsigned which;
};

static void earlier(struct event *event, uint64_t at_ns, int kind, unsigned which)
{
    if (at_ns < event->at_ns)
        *event = (struct event){.at_ns = at_ns, .kind = kind, .which = which};
}

static struct event next_event(const struct harness *harness)
{
    struct event event = {.at_ns = NEVER};

    for (unsigned i = 0; i < harness->packet_count; i++)
        earlier(&event, harness->packets[i].deliver_ns, EVENT_PACKET, i);
    for (unsigned id = 1; id <= harness->options.nodes; id++) {
        const struct node *node = &harness->nodes[id];

        if (!node->raft)
            continue;
        if (node->writing.batch != 0)
            earlier(&event, node->writing_done_ns, EVENT_WRITE, id);
        earlier(&event, node->chunk_done_ns, EVENT_CHUNK, id);
        earlier(&event, tick_due(node), EVENT_TICK, id);
    }
    return event;
}

static bool step(struct harness *harness, uint64_t until_ns)
{
    struct event event = next_event(harness);
    struct node *node = &harness->nodes[event.kind == EVENT_PACKET ? 0 : event.which];

    if (harness->violation[0] || event.at_ns > until_ns) {
        harness->now_ns = MAX(harness->now_ns, until_ns);
        return false;
    }
    harness->now_ns = MAX(harness->now_ns, event.at_ns);
    harness->steps++;
    switch (event.kind) {
    case EVENT_PACKET:
        deliver(harness, event.which);
        break;
    case EVENT_WRITE:
        finish_write(harness, node);
        break;
    case EVENT_CHUNK:
        finish_chunk(harness, node);
        break;
    case EVENT_TICK:
        raft_tick(node->raft, node_clock(harness, node));
        pump(harness, node);
        break;
    case EVENT_NONE:
        break;
    }
    return true;
}

void harness_run(struct harness *harness, uint64_t duration_ns)
{
    uint64_t until_ns = harness->now_ns + duration_ns;

    while (step(harness, until_ns))
        ;
}

bool harness_run_until(struct harness *harness, uint64_t duration_ns,
                       bool (*condition)(struct harness *harness, uint64_t arg), uint64_t arg)
{
    uint64_t until_ns = harness->now_ns + duration_ns;

    while (!condition(harness, arg))
        if (!step(harness, until_ns))
            return condition(harness, arg);
    return true;
}

static bool leads(struct harness *harness, uint64_t id)
{
    return harness_leader(harness) == id;
}

bool harness_elect(struct harness *harness, uint64_t id)
{
    harness_run(harness, 1);
    for (unsigned i = 1; i <= harness->options.nodes; i++) {
        const struct node *node = &harness->nodes[i];

        if (node->raft && !raft_leads(node->raft))
            node->raft->election_deadline_ns =
                node_clock(harness, node) + (i == id ? 700 * MS : 5 * SEC);
    }
    return harness_run_until(harness, 4 * SEC, leads, id);
}

/* ---- Life ---- */

static void start(struct harness *harness, struct node *node)
{
    struct raft_options options = {
        .id = node->id,
        .witness = node->id == harness->options.witness,
        .trailing_entries =
            harness->options.trailing_entries ? harness->options.trailing_entries : 5,
        .message_entries = harness->options.message_entries,
        .random = random_next,
        .random_arg = harness,
        .hard_state = node->disk.hard,
        .base = node->disk.base,
        .applied = node->disk.state.index,
        .mutation = harness->options.mutation,
    };
    int r;

    r = raft_new(&options, &node->raft);
    for (uint64_t index = node->disk.base.index + 1; r == 0 && index <= node->disk.last; index++) {
        const struct stored_entry *stored = &node->disk.log[index];
        struct raft_view view = {
            .term = stored->term, .type = stored->type, .size = stored->size, .data = stored->data};

        r = raft_restore(node->raft, index, &view);
    }
    if (r == 0)
        r = raft_start(node->raft, node_clock(harness, node));
    if (r != 0) {
        violated(harness, "start: node %" PRIu64 " cannot: %d", node->id, r);
        raft_free(node->raft);
        node->raft = NULL;
        return;
    }
    node->state = node->disk.state;
    node->chunk_done_ns = NEVER;
    node->staged_size = 0;
    node->sending.index = 0;
    node->seen_last = node->seen_commit = node->led_term = 0;
    pump(harness, node);
}

struct harness *harness_new(const struct harness_options *options)
{
    struct harness *harness = calloc(1, sizeof(*harness));
    int r = 0;

    assert(harness);
    assert(options->nodes <= HARNESS_NODES_MAX);
    harness->options = *options;
    harness->random = options->seed;
    harness->now_ns = 1 * SEC;
    harness->faults = (struct harness_faults){.delay_ns = 1 * MS, .disk_ns = 1 * MS};
    harness->state_hash[1] = 1;
    for (unsigned id = 1; id <= options->nodes; id++) {
        struct node *node = &harness->nodes[id];
        enum raft_member_role role = raft_configuration_role(&options->configuration, id);

        node->id = id;
        node->clock_ns = harness_random(harness, 3600 * SEC);
        node->disk.log = calloc(LOG_MAX, sizeof(node->disk.log[0]));
        assert(node->disk.log);
        if (role == RAFT_VOTER || role == RAFT_LEARNER) {
            r |= raft_bootstrap(&options->configuration, &node->disk.hard, &node->disk.base);
            node->disk.last = 1;
            node->disk.state = (struct state){.index = 1, .hash = 1};
        }
    }
    assert(r == 0);
    for (unsigned id = 1; id <= options->nodes; id++)
        start(harness, &harness->nodes[id]);
    return harness;
}

void harness_free(struct harness *harness)
{
    if (!harness)
        return;
    for (unsigned id = 1; id <= harness->options.nodes; id++) {
        raft_free(harness->nodes[id].raft);
        free(harness->nodes[id].disk.log);
    }
    for (unsigned i = 0; i < harness->packet_count; i++)
        free(harness->packets[i].bytes);
    free(harness);
}

void harness_crash(struct harness *harness, uint64_t id, bool write_survives)
{
    struct node *node = &harness->nodes[id];

    if (!node->raft)
        return;
    trace(harness, "node %" PRIu64 " crashes%s", id, write_survives ? ", its write survives" : "");
    if (node->writing.batch != 0 && write_survives)
        write_batch(harness, node);
    node->writing = (struct raft_persist){0};
    raft_free(node->raft);
    node->raft = NULL;
}

void harness_restart(struct harness *harness, uint64_t id)
{
    if (harness->nodes[id].raft)
        return;
    trace(harness, "node %" PRIu64 " starts", id);
    start(harness, &harness->nodes[id]);
}

void harness_forget(struct harness *harness, uint64_t id, uint64_t index)
{
    struct disk *disk = &harness->nodes[id].disk;

    assert(!harness->nodes[id].raft);
    assert(index > disk->base.index);
    disk->last = MIN(disk->last, index - 1);
    if (disk->state.index > disk->last) {
        disk->state.index = disk->last;
        disk->state.hash = harness->state_hash[disk->last];
    }
}

void harness_cut(struct harness *harness, uint64_t from, uint64_t to, bool cut)
{
    harness->cut[from][to] = cut;
}

void harness_cut_both(struct harness *harness, uint64_t a, uint64_t b, bool cut)
{
    harness_cut(harness, a, b, cut);
    harness_cut(harness, b, a, cut);
}

void harness_isolate(struct harness *harness, uint64_t id, bool cut)
{
    for (unsigned other = 1; other <= harness->options.nodes; other++)
        if (other != id)
            harness_cut_both(harness, id, other, cut);
}

void harness_heal(struct harness *harness)
{
    memset(harness->cut, 0, sizeof(harness->cut));
}

void harness_disk(struct harness *harness, uint64_t id, uint64_t latency_ns)
{
    harness->nodes[id].disk_latency_ns = latency_ns;
}

/* ---- Requests ---- */

int harness_propose(struct harness *harness, uint64_t id, uint64_t value, uint64_t *ret_index)
{
    struct node *node = &harness->nodes[id];
    int r;

    if (!node->raft || harness->violation[0])
        return -ESTALE;
    r = raft_propose(node->raft, node_clock(harness, node), &value, sizeof(value), ret_index, NULL);
    pump(harness, node);
    return r;
}

int harness_read(struct harness *harness, uint64_t id)
{
    struct node *node = &harness->nodes[id];
    uint64_t context = harness->read_count % READS_MAX;
    int r;

    if (!node->raft || harness->violation[0])
        return -ESTALE;
    harness->reads[context] = harness->commit;
    r = raft_read_index(node->raft, node_clock(harness, node), context);
    if (r == 0)
        harness->read_count++;
    pump(harness, node);
    return r;
}

int harness_change(struct harness *harness, uint64_t id, uint64_t which, enum raft_member_role role)
{
    struct node *node = &harness->nodes[id];
    int r;

    if (!node->raft || harness->violation[0])
        return -ESTALE;
    r = raft_change(node->raft, node_clock(harness, node), which, role, NULL);
    if (r == 0)
        trace(harness, "node %" PRIu64 " proposes role %u for %" PRIu64, id, role, which);
    pump(harness, node);
    return r;
}

int harness_transfer(struct harness *harness, uint64_t id, uint64_t target)
{
    struct node *node = &harness->nodes[id];
    int r;

    if (!node->raft || harness->violation[0])
        return -ESTALE;
    r = raft_transfer(node->raft, node_clock(harness, node), target);
    pump(harness, node);
    return r;
}

void harness_peer_down(struct harness *harness, uint64_t id, uint64_t peer)
{
    struct node *node = &harness->nodes[id];

    raft_peer_down(node->raft, node_clock(harness, node), peer);
    pump(harness, node);
}

/* ---- Questions ---- */

const char *harness_violation(const struct harness *harness)
{
    return harness->violation[0] ? harness->violation : NULL;
}

struct harness_faults *harness_faults(struct harness *harness)
{
    return &harness->faults;
}

uint64_t harness_now(const struct harness *harness)
{
    return harness->now_ns;
}

uint64_t harness_steps(const struct harness *harness)
{
    return harness->steps;
}

struct raft *harness_raft(struct harness *harness, uint64_t id)
{
    return harness->nodes[id].raft;
}

uint64_t harness_leader(struct harness *harness)
{
    const struct raft *best = NULL;

    for (unsigned id = 1; id <= harness->options.nodes; id++) {
        const struct raft *raft = harness->nodes[id].raft;

        if (raft && raft_leads(raft) && (!best || raft->hard.term > best->hard.term))
            best = raft;
    }
    return best ? best->options.id : 0;
}

uint64_t harness_commit(const struct harness *harness)
{
    return harness->commit;
}

bool harness_applied_everywhere(struct harness *harness, uint64_t index)
{
    uint64_t leader = harness_leader(harness);
    const struct raft_configuration *configuration;

    if (leader == 0)
        return false;
    configuration = &harness->nodes[leader].raft->configuration;
    for (unsigned id = 1; id <= harness->options.nodes; id++) {
        const struct node *node = &harness->nodes[id];
        enum raft_member_role role = raft_configuration_role(configuration, id);

        if (node->raft && (role == RAFT_VOTER || role == RAFT_LEARNER) && node->state.index < index)
            return false;
    }
    return true;
}

uint64_t harness_value_at(const struct harness *harness, uint64_t index)
{
    return harness->commits[index].value;
}

unsigned harness_lost_reports(const struct harness *harness, uint64_t about)
{
    return harness->lost_reports[about];
}

unsigned harness_reads_answered(const struct harness *harness)
{
    return harness->reads_answered;
}

unsigned harness_snapshots_installed(const struct harness *harness)
{
    return harness->snapshots_installed;
}

unsigned harness_messages(const struct harness *harness, enum raft_message_type type)
{
    return harness->messages[type];
}
