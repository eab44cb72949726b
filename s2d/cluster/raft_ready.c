/* raft_ready: what leaves the core. Messages wait in the outbox until the batch that they depend on
 * is durable (R1); batches are numbered, one is being written at a time, so "durable up to batch n"
 * is one number. */
#include "s2d/cluster/raft_internal.h"

static uint64_t durable_batch(const struct raft *raft)
{
    return raft->writing.batch ? raft->writing.batch - 1 : raft->last_batch;
}

static bool hard_equal(const struct raft_hard_state *a, const struct raft_hard_state *b)
{
    return a->term == b->term && a->vote == b->vote && a->vouched_term == b->vouched_term &&
           a->vouched_index == b->vouched_index;
}

uint64_t raft_batch_of_hard_state(const struct raft *raft)
{
    if (raft->writing.batch == 0)
        return hard_equal(&raft->hard, &raft->hard_durable) ? 0 : raft->last_batch + 1;
    return hard_equal(&raft->hard, &raft->writing.hard_state) ? raft->writing.batch
                                                              : raft->last_batch + 1;
}

uint64_t raft_batch_of_index(const struct raft *raft, uint64_t index)
{
    if (index <= raft->durable)
        return 0;
    return index <= raft->writing.last ? raft->writing.batch : raft->last_batch + 1;
}

/* Is there anything that no batch has yet? */
static bool unhanded(const struct raft *raft)
{
    const struct raft_hard_state *hard =
        raft->writing.batch ? &raft->writing.hard_state : &raft->hard_durable;

    return !hard_equal(&raft->hard, hard) || raft->handed < raft_last(raft) ||
           raft->truncate_from != 0 || raft->base_changed || raft->install;
}

uint64_t raft_batch_of_all(const struct raft *raft)
{
    return unhanded(raft) ? raft->last_batch + 1 : raft->writing.batch;
}

static void packet_free(struct packet *packet)
{
    for (uint32_t i = 0; i < packet->entry_count; i++)
        raft_entry_put(packet->entries[i]);
    free(packet->entries);
    free(packet->data);
    free(packet);
}

/* The packet keeps what the message points to: counted entries, and a copy of a snapshot's piece.
 */
static bool packet_keep(struct packet *packet, const struct raft_log *log)
{
    struct raft_message *message = &packet->message;

    if (message->type == RAFT_SNAPSHOT) {
        packet->data = malloc(MAX(message->snapshot.size, 1u));
        if (!packet->data)
            return false;
        if (message->snapshot.size > 0)
            memcpy(packet->data, message->snapshot.data, message->snapshot.size);
        message->snapshot.data = packet->data;
    }
    if (message->type != RAFT_APPEND || message->append.entry_count == 0)
        return true;
    packet->entries = calloc(message->append.entry_count, sizeof(packet->entries[0]));
    if (!packet->entries)
        return false;
    for (uint32_t i = 0; i < message->append.entry_count; i++)
        packet->entries[packet->entry_count++] =
            raft_entry_get(raft_log_entry(log, message->append.prev_index + 1 + i));
    memcpy(packet->views, message->append.entries,
           message->append.entry_count * sizeof(packet->views[0]));
    message->append.entries = packet->views;
    return true;
}

static struct packet *packet_new(const struct raft_message *message, const struct raft_log *log)
{
    uint32_t entries = message->type == RAFT_APPEND ? message->append.entry_count : 0;
    struct packet *packet = malloc(sizeof(*packet) + entries * sizeof(packet->views[0]));

    if (!packet)
        return NULL;
    *packet = (struct packet){.message = *message};
    if (!packet_keep(packet, log)) {
        packet_free(packet);
        return NULL;
    }
    return packet;
}

void raft_send(struct raft *raft, uint64_t to, const struct raft_message *message, uint64_t batch)
{
    struct packet *packet;

    if (raft->outbox_count == RAFT_OUTBOX_MAX)
        return;
    packet = packet_new(message, &raft->log);
    if (!packet)
        return; /* lost, as on a wire */
    packet->message.from = raft->options.id;
    packet->message.to = to;
    packet->message.term = raft->hard.term;
    packet->batch = batch;
    if (raft->hard.term != raft->hard_durable.term && !planted(raft, RAFT_FORGET_VOTE))
        packet->batch = MAX(packet->batch, raft_batch_of_hard_state(raft));
    raft->outbox[raft->outbox_count++] = packet;
}

void raft_drop_held(struct raft *raft)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < raft->outbox_count; i++) {
        SOMETIMES_IF(raft->outbox[i]->batch > durable_batch(raft),
                     "raft: a promise of an earlier term is never sent");
        if (raft->outbox[i]->batch > durable_batch(raft))
            packet_free(raft->outbox[i]);
        else
            raft->outbox[left++] = raft->outbox[i];
    }
    raft->outbox_count = left;
}

static void forget_shown(struct raft *raft)
{
    for (uint32_t i = 0; i < raft->shown_count; i++)
        packet_free(raft->shown[i]);
    for (uint32_t i = 0; i < raft->shown_apply_count; i++)
        raft_entry_put(raft->shown_apply[i]);
    raft->shown_count = 0;
    raft->shown_apply_count = 0;
}

void raft_outbox_done(struct raft *raft)
{
    forget_shown(raft);
    for (uint32_t i = 0; i < raft->outbox_count; i++)
        packet_free(raft->outbox[i]);
    for (size_t i = 0; i < raft->writing.entry_count; i++)
        raft_entry_put(raft->writing.entries[i]);
    free(raft->writing.entries);
}

static void show_messages(struct raft *raft, struct raft_ready *ready)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < raft->outbox_count; i++) {
        struct packet *packet = raft->outbox[i];

        if (packet->batch > durable_batch(raft)) {
            raft->outbox[left++] = packet;
            continue;
        }
        assert(packet->message.term <= raft->hard_durable.term || planted(raft, RAFT_FORGET_VOTE));
        raft->shown_messages[raft->shown_count] = &packet->message;
        raft->shown[raft->shown_count++] = packet;
    }
    raft->outbox_count = left;
    ready->messages = raft->shown_messages;
    ready->message_count = raft->shown_count;
}

static int writing_entries(struct raft *raft)
{
    struct writing *writing = &raft->writing;
    size_t count = raft_last(raft) - raft->handed;

    if (count == 0)
        return 0;
    writing->entries = calloc(count, sizeof(writing->entries[0]));
    if (!writing->entries)
        return -ENOMEM;
    for (; raft->handed < raft_last(raft); raft->handed++)
        writing->entries[writing->entry_count++] =
            raft_entry_get(raft_log_entry(&raft->log, raft->handed + 1));
    return 0;
}

static void show_persist(struct raft *raft, struct raft_ready *ready)
{
    struct writing *writing = &raft->writing;

    if (writing->batch != 0 || !unhanded(raft))
        return;
    if (writing_entries(raft) < 0)
        return; /* no memory now: the next raft_ready() tries again */
    writing->batch = ++raft->last_batch;
    writing->hard_state = raft->hard;
    writing->install = raft->install;
    writing->base = raft->log.base;
    writing->last = raft->handed;
    ready->persist = (struct raft_persist){
        .batch = writing->batch,
        .install = raft->install,
        .base = raft->base_changed ? &writing->base : NULL,
        .truncate_from = raft->truncate_from,
        .entries = writing->entries,
        .entry_count = writing->entry_count,
        .hard_state = writing->hard_state,
    };
    if (PLANTED(RAFT_VOTE_NOT_WRITTEN))
        ready->persist.hard_state.vote = 0;
    raft->install = false;
    raft->base_changed = false;
    raft->truncate_from = 0;
}

static void show_apply(struct raft *raft, struct raft_ready *ready)
{
    uint64_t end = MIN(raft->commit, raft->durable); /* R5 */

    while (raft->applied < end && raft->shown_apply_count < RAFT_READY_APPLY_MAX)
        raft->shown_apply[raft->shown_apply_count++] =
            raft_entry_get(raft_log_entry(&raft->log, ++raft->applied));
    ready->apply = raft->shown_apply;
    ready->apply_count = raft->shown_apply_count;
}

static void show_reads(struct raft *raft, struct raft_ready *ready)
{
    memcpy(raft->shown_reads, raft->done_reads,
           raft->done_read_count * sizeof(raft->done_reads[0]));
    ready->reads = raft->shown_reads;
    ready->read_count = raft->done_read_count;
    raft->done_read_count = 0;
}

static void show_chunks(struct raft *raft, struct raft_ready *ready)
{
    ready->chunk_requests = raft->shown_chunk_requests;
    for (uint32_t i = 0; raft_leads(raft) && i < raft->peer_count; i++) {
        struct peer *peer = &raft->peers[i];

        if (peer->mode != PEER_SNAPSHOT || !peer->chunk_wanted)
            continue;
        peer->chunk_wanted = false;
        peer->chunk_awaited = true;
        peer->chunk_ns = raft->now_ns;
        raft->shown_chunk_requests[ready->chunk_request_count++] =
            (struct raft_chunk_request){.peer = peer->id,
                                        .snapshot_index = peer->snapshot_index,
                                        .offset = peer->snapshot_offset};
    }
    if (!raft->incoming.pending || raft->incoming.shown)
        return;
    raft->incoming.shown = true;
    ready->chunk = &raft->incoming.chunk;
    ready->chunk_from = raft->incoming.from;
}

static void show_lost(struct raft *raft, struct raft_ready *ready)
{
    memcpy(raft->shown_lost, raft->lost, sizeof(raft->lost));
    ready->lost = raft->shown_lost;
    ready->lost_count = raft_leads(raft) ? raft->lost_count : 0;
    raft->lost_count = 0;
}

static void show_role(struct raft *raft, struct raft_ready *ready)
{
    const struct raft_role *before = &raft->shown_role;

    ready->role =
        (struct raft_role){.state = raft->state, .term = raft->hard.term, .leader = raft->leader};
    ready->role_changed = before->state != ready->role.state || before->term != ready->role.term ||
                          before->leader != ready->role.leader;
    raft->shown_role = ready->role;
}

bool raft_ready(struct raft *raft, struct raft_ready *ret_ready)
{
    struct raft_ready ready = {0};

    assert(raft->started);
    forget_shown(raft);
    if (raft_leads(raft))
        raft_leader_flush(raft);
    show_persist(raft, &ready);
    show_messages(raft, &ready);
    show_apply(raft, &ready);
    show_reads(raft, &ready);
    show_chunks(raft, &ready);
    show_lost(raft, &ready);
    show_role(raft, &ready);
    raft_check(raft);

    *ret_ready = ready;
    return ready.message_count > 0 || ready.persist.batch != 0 || ready.apply_count > 0 ||
           ready.read_count > 0 || ready.chunk_request_count > 0 || ready.chunk ||
           ready.lost_count > 0 || ready.role_changed;
}
