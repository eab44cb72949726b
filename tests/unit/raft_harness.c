#include "tests/unit/raft_harness_internal.h"

static uint64_t random_next(void *arg)
{
    struct harness *harness = arg;

    harness->random += 0x9e3779b97f4a7c15u;
    return harness_mix(harness->random);
}

uint64_t harness_random(struct harness *harness, uint64_t below)
{
    return below > 0 ? random_next(harness) % below : 0;
}

static bool chance(struct harness *harness, unsigned permille)
{
    return permille > 0 && harness_random(harness, 1000) < permille;
}

static uint64_t node_clock(const struct harness *harness, const struct node *node)
{
    return harness->now_ns + node->clock_ns;
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
    harness_check_promise(harness, node, message);
    if (message->to == 0 || message->to > harness->options.nodes) {
        harness_violated(harness, "harness: message to nobody");
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
        harness_violated(harness, "apply: node %" PRIu64 " is given %" PRIu64 " after %" PRIu64,
                         node->id, entry->index, node->state.index);
        return;
    }
    if (entry->index > node->disk.last)
        harness_violated(harness, "apply: node %" PRIu64 " has not stored %" PRIu64, node->id,
                         entry->index);
    node->state.index = entry->index;
    node->state.hash =
        harness_mix(node->state.hash ^ harness_hash(entry->data, entry->size) ^ entry->term);
    if (harness->state_hash[entry->index] == 0)
        harness->state_hash[entry->index] = node->state.hash;
    if (harness->state_hash[entry->index] != node->state.hash)
        harness_violated(harness, "state machine safety: state of node %" PRIu64 " at %" PRIu64,
                         node->id, entry->index);
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
            harness_violated(harness, "snapshot: node %" PRIu64 " installs a broken one", node->id);
        if (node->state.index != persist->base->index ||
            (harness->state_hash[node->state.index] != 0 &&
             harness->state_hash[node->state.index] != node->state.hash))
            harness_violated(harness, "snapshot: node %" PRIu64 " installs another state",
                             node->id);
        harness->snapshots_installed++;
        harness_trace(harness, "node %" PRIu64 " installs the snapshot of %" PRIu64, node->id,
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
            harness_violated(harness, "disk: node %" PRIu64 " has a base beyond its log", node->id);
    }
    if (persist->truncate_from != 0 && persist->truncate_from <= disk->last) {
        if (persist->truncate_from <= disk->base.index)
            harness_violated(harness, "disk: node %" PRIu64 " truncates its base", node->id);
        disk->last = persist->truncate_from - 1;
    }
    for (size_t i = 0; i < persist->entry_count; i++) {
        const struct raft_entry *entry = persist->entries[i];
        struct stored_entry *stored = &disk->log[entry->index];

        if (entry->index != disk->last + 1)
            harness_violated(harness, "disk: node %" PRIu64 " leaves a gap at %" PRIu64, node->id,
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
        chance(harness, harness->faults.snapshot_permille)) {
        node->sending = node->state;
        r = raft_snapshot_at(node->raft, node->state.index, &node->sending_snapshot);
        assert(r == 0);
        chunk.offset = 0;
    }
    if (chance(harness, harness->faults.snapshot_permille))
        return; /* no time now: it will be asked for again */
    state_to_bytes(&node->sending, bytes);
    chunk.snapshot = node->sending_snapshot;
    chunk.size = (uint32_t)MIN((uint64_t)CHUNK_BYTES, sizeof(bytes) - chunk.offset);
    chunk.done = chunk.offset + chunk.size == sizeof(bytes);
    chunk.data = bytes + chunk.offset;
    r = raft_send_chunk(node->raft, node_clock(harness, node), request->peer, &chunk);
    if (r != 0)
        harness_violated(harness,
                         "snapshot: node %" PRIu64 " may not send what it was asked for: %d",
                         node->id, r);
}

static void take_chunk(struct harness *harness, struct node *node, const struct raft_chunk *chunk)
{
    if (chunk->offset == 0)
        node->staged_size = 0;
    if (chunk->offset != node->staged_size || chunk->offset + chunk->size > sizeof(node->staged)) {
        harness_violated(harness, "snapshot: node %" PRIu64 " is given pieces out of order",
                         node->id);
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
        harness_violated(harness,
                         "reads: node %" PRIu64 " answers %" PRIu64 ", committed was %" PRIu64,
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
    harness_check_node(harness, node);
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
    } else if (message->type == RAFT_SNAPSHOT) {
        a = message->snapshot.snapshot.index;
        b = message->snapshot.offset;
        c = message->snapshot.done;
    } else if (message->type == RAFT_SNAPSHOT_ANSWER) {
        a = message->snapshot_answer.index;
        b = message->snapshot_answer.next_offset;
        c = message->snapshot_answer.installed;
    } else if (message->type == RAFT_VOUCH || message->type == RAFT_VOUCH_ANSWER) {
        a = message->type == RAFT_VOUCH ? message->vouch.index : message->vouch_answer.index;
    }
    harness_trace(
        harness, "%" PRIu64 " → %" PRIu64 " %s, term %" PRIu64 ": %" PRIu64 " %" PRIu64 " %" PRIu64,
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
        harness_violated(harness, "protocol: node %" PRIu64 " refuses a %s of %" PRIu64 ": %d",
                         packet.to, raft_message_name(message.type), packet.from, r);
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
    int result = chance(harness, harness->faults.snapshot_permille) ? -EIO : 0;

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
        harness_violated(harness, "start: node %" PRIu64 " cannot: %d", node->id, r);
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
    harness_trace(harness, "node %" PRIu64 " crashes%s", id,
                  write_survives ? ", its write survives" : "");
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
    harness_trace(harness, "node %" PRIu64 " starts", id);
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
        harness_trace(harness, "node %" PRIu64 " proposes role %u for %" PRIu64, id, role, which);
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
