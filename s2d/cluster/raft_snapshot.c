/* raft_snapshot: for a peer that needs entries which are gone from the log, the state itself, in
 * pieces. One piece is on its way to a peer at a time; the receiver names the offset it wants next,
 * so loss, repetition and a restart of either side need no further thought. The bytes belong to the
 * layer above. */
#include "s2d/cluster/raft_internal.h"

/* Sender */

void raft_peer_snapshot(struct raft *raft, struct peer *peer)
{
    peer->mode = PEER_SNAPSHOT;
    peer->snapshot_index = 0;
    peer->snapshot_offset = 0;
    peer->chunk_wanted = true;
    peer->chunk_awaited = false;
    peer->chunk_ns = raft->now_ns;
}

void raft_snapshot_tick(struct raft *raft, struct peer *peer)
{
    if (peer->mode != PEER_SNAPSHOT || peer->chunk_wanted)
        return;
    if (raft->now_ns - peer->chunk_ns < raft->options.election_timeout_max_ns)
        return;
    peer->chunk_wanted = true; /* the piece, or its answer, got lost; or the layer above is slow */
    peer->chunk_awaited = false;
}

static bool chunk_sound(const struct raft *raft, const struct raft_chunk *chunk)
{
    const struct raft_snapshot *snapshot = &chunk->snapshot;

    if (chunk->size > RAFT_CHUNK_BYTES_MAX || (chunk->size == 0 && !chunk->done))
        return false;
    if (raft_configuration_validate(&snapshot->configuration) < 0)
        return false;
    return snapshot->index >= raft->log.base.index && snapshot->index <= raft->applied &&
           snapshot->term == raft_log_term(&raft->log, snapshot->index);
}

int raft_send_chunk(struct raft *raft, uint64_t now_ns, uint64_t id, const struct raft_chunk *chunk)
{
    struct raft_message message = {.type = RAFT_SNAPSHOT};
    struct peer *peer = raft_peer(raft, id);

    raft->now_ns = MAX(raft->now_ns, now_ns);
    if (!raft_leads(raft) || !peer || peer->mode != PEER_SNAPSHOT || !peer->chunk_awaited)
        return -ESTALE;
    if (!chunk_sound(raft, chunk))
        return -EINVAL;
    if (chunk->offset != 0 &&
        (chunk->offset != peer->snapshot_offset || chunk->snapshot.index != peer->snapshot_index))
        return -ESTALE;

    if (chunk->offset == 0)
        peer->snapshot_end = 0;
    peer->snapshot_index = chunk->snapshot.index;
    peer->snapshot_offset = chunk->offset;
    peer->snapshot_end = MAX(peer->snapshot_end, chunk->offset + chunk->size);
    peer->chunk_awaited = false;
    peer->chunk_ns = raft->now_ns;
    message.snapshot.snapshot = chunk->snapshot;
    message.snapshot.offset = chunk->offset;
    message.snapshot.done = chunk->done;
    message.snapshot.size = chunk->size;
    message.snapshot.data = chunk->data;
    raft_send(raft, id, &message, 0);
    return 0;
}

int raft_on_snapshot_answer(struct raft *raft, struct peer *peer,
                            const struct raft_message *message)
{
    uint64_t next = message->snapshot_answer.next_offset;

    if (message->snapshot_answer.request_term != raft->hard.term)
        return 0;
    if (message->snapshot_answer.index > raft->commit || peer->role == RAFT_WITNESS)
        return -EPROTO;
    peer->heard_ns = raft->now_ns;
    peer->down = false;
    if (message->snapshot_answer.installed) {
        raft_peer_confirmed(raft, peer, message->snapshot_answer.index, true);
        return 0;
    }
    if (peer->mode != PEER_SNAPSHOT || message->snapshot_answer.index != peer->snapshot_index)
        return 0;
    if (peer->chunk_awaited || peer->chunk_wanted)
        return 0; /* an echo of an earlier piece */
    if (next > peer->snapshot_end)
        return 0;
    /* It may go back: a late repetition of the first piece made the receiver start over. */
    peer->snapshot_offset = next;
    peer->chunk_wanted = true;
    return 0;
}

/* Compaction leaves what a snapshot under way builds on, unless the log is getting too large. */
static uint64_t compaction_limit(const struct raft *raft)
{
    uint64_t limit = UINT64_MAX;

    if (!raft_leads(raft) || raft->log.bytes > raft->options.log_bytes_max / 2)
        return limit;
    for (uint32_t i = 0; i < raft->peer_count; i++)
        if (raft->peers[i].mode == PEER_SNAPSHOT && raft->peers[i].snapshot_index != 0)
            limit = MIN(limit, raft->peers[i].snapshot_index);
    return limit;
}

void raft_compact(struct raft *raft, uint64_t index)
{
    uint64_t trailing = raft->options.trailing_entries;

    index = MIN(index, raft->applied);
    if (raft->log.bytes > raft->options.log_bytes_max / 2)
        trailing = 0;
    index = index > trailing ? index - trailing : 0;
    index = MIN(index, compaction_limit(raft));
    if (index <= raft->log.base.index)
        return;
    raft_log_compact(&raft->log, index);
    raft->configuration_index = MAX(raft->configuration_index, index);
    raft->base_changed = true;
    raft_check(raft);
}

int raft_snapshot_at(const struct raft *raft, uint64_t index, struct raft_snapshot *ret_snapshot)
{
    if (index < raft->log.base.index)
        return -ESTALE;
    if (index == 0 || index > raft->applied)
        return -EINVAL;
    ret_snapshot->index = index;
    ret_snapshot->term = raft_log_term(&raft->log, index);
    raft_log_configuration(&raft->log, index, &ret_snapshot->configuration);
    return 0;
}

/* Receiver */

void raft_incoming_drop(struct raft *raft)
{
    free(raft->incoming.data);
    memset(&raft->incoming, 0, sizeof(raft->incoming));
}

static void answer(struct raft *raft, uint64_t to, uint64_t index, uint64_t next_offset,
                   bool installed)
{
    struct raft_message message = {
        .type = RAFT_SNAPSHOT_ANSWER,
        .snapshot_answer = {.request_term = raft->hard.term,
                            .index = index,
                            .next_offset = next_offset,
                            .installed = installed},
    };

    raft_send(raft, to, &message, installed ? raft_batch_of_index(raft, index) : 0);
}

/* Is all that the snapshot holds in the log, or in the state, already? */
static bool holds(const struct raft *raft, const struct raft_snapshot *snapshot)
{
    return snapshot->index <= raft->commit ||
           raft_log_term(&raft->log, snapshot->index) == snapshot->term;
}

static bool is_incoming(const struct raft *raft, const struct raft_message *message)
{
    return raft->incoming.from == message->from && raft->incoming.term == message->term &&
           raft->incoming.snapshot.index == message->snapshot.snapshot.index &&
           raft->incoming.snapshot.term == message->snapshot.snapshot.term;
}

static int take_chunk(struct raft *raft, const struct raft_message *message)
{
    void *data = malloc(MAX(message->snapshot.size, 1u));

    if (!data)
        return -ENOMEM;
    if (message->snapshot.size > 0)
        memcpy(data, message->snapshot.data, message->snapshot.size);
    raft->incoming.from = message->from;
    raft->incoming.term = message->term;
    raft->incoming.snapshot = message->snapshot.snapshot;
    raft->incoming.next_offset = message->snapshot.offset;
    raft->incoming.pending = true;
    raft->incoming.shown = false;
    raft->incoming.data = data;
    raft->incoming.chunk = (struct raft_chunk){
        .snapshot = message->snapshot.snapshot,
        .offset = message->snapshot.offset,
        .done = message->snapshot.done,
        .size = message->snapshot.size,
        .data = data,
    };
    return 0;
}

int raft_on_snapshot(struct raft *raft, const struct raft_message *message)
{
    const struct raft_snapshot *snapshot = &message->snapshot.snapshot;
    uint64_t wanted;

    if (message->snapshot.size > RAFT_CHUNK_BYTES_MAX ||
        (message->snapshot.size == 0 && !message->snapshot.done))
        return -EPROTO;
    if (raft->durable < raft->log.base.index || raft->incoming.pending)
        return 0; /* the last one is being installed, or the last piece stored: asked again later */
    if (holds(raft, snapshot)) {
        raft_incoming_drop(raft);
        raft_commit_to(raft, MAX(raft->commit, snapshot->index));
        answer(raft, message->from, snapshot->index, 0, true);
        return 0;
    }
    wanted = is_incoming(raft, message) ? raft->incoming.next_offset : 0;
    if (message->snapshot.offset != 0 && message->snapshot.offset != wanted) {
        SOMETIMES("raft: a piece of a snapshot is not the one wanted");
        answer(raft, message->from, snapshot->index, wanted, false);
        return 0;
    }
    return take_chunk(raft, message);
}

/* The log is gone with the state it led to; both are what the snapshot says, once the batch is
 * durable. */
static void install(struct raft *raft, const struct raft_snapshot *snapshot)
{
    SOMETIMES("raft: a snapshot is installed");
    raft_log_reset(&raft->log, snapshot);
    raft->commit = raft->applied = raft->handed = snapshot->index;
    raft->durable = 0;
    raft->writing.last = 0; /* what that batch wrote goes with the old log */
    raft->truncate_from = 0;
    raft->install = true;
    raft->base_changed = true;
    raft_configuration_changed(raft);
}

void raft_chunk_stored(struct raft *raft, uint64_t now_ns, int result)
{
    struct raft_snapshot snapshot = raft->incoming.snapshot;
    const struct raft_chunk *chunk = &raft->incoming.chunk;
    bool done = chunk->done && result == 0;
    uint64_t from = raft->incoming.from, term = raft->incoming.term;

    raft->now_ns = MAX(raft->now_ns, now_ns);
    assert(raft->incoming.pending);
    raft->incoming.next_offset = result == 0 ? chunk->offset + chunk->size : 0;
    raft->incoming.pending = false;
    free(raft->incoming.data);
    raft->incoming.data = NULL;

    SOMETIMES_IF(done && term != raft->hard.term,
                 "raft: a snapshot ends in a later term than it began");
    done = done && !raft_leads(raft); /* a leader lacks nothing: whoever sent this is wrong */
    if (done && !holds(raft, &snapshot))
        install(raft, &snapshot); /* sound whoever leads now: it is committed */
    if (term == raft->hard.term)
        answer(raft, from, snapshot.index, raft->incoming.next_offset, done);
    if (done)
        raft_incoming_drop(raft);
    raft_check(raft);
}
