/* Every event (a message, a tick, a proposal, a batch written) ends in consensus_drive(): it takes
 * what the Raft core wants done until there is no more. Only writing the store takes time; one
 * coroutine does that, batch by batch. */
#include "s2d/base/log.h"
#include "s2d/base/planted.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/consensus_internal.h"

#define FLUSH_NS (500 * MS) /* state that no batch of Raft's carried is written after */
#define COMPACT_ENTRIES 4096
#define LOG_BYTES_MAX (256 * MIB)

/* ---- applying ---- */

static struct proposal *find_proposal(struct consensus *consensus, const json_t *command)
{
    const json_t *by = json_object_get(command, "by");

    if (json_integer_value(json_array_get(by, 0)) != (json_int_t)consensus->options.node ||
        json_integer_value(json_array_get(by, 1)) != (json_int_t)consensus->options.start_counter)
        return NULL;
    list_for_each (node, &consensus->proposals) {
        struct proposal *proposal = list_entry(node, struct proposal, node);

        if (json_integer_value(json_array_get(by, 2)) == (json_int_t)proposal->number)
            return proposal;
    }
    return NULL;
}

/* A mistake (planted.h): each node misses commands of its own, when the cluster has been set up. */
static bool is_skipped(const struct consensus *consensus, const struct raft_entry *entry)
{
    return PLANTED(COMMAND_SKIPPED) && entry->index > 50 &&
           entry->index % 16 == consensus->options.node % 16;
}

static void apply_command(struct consensus *consensus, const struct raft_entry *entry)
{
    json_t *command = json_parse(entry->data, entry->size); /* NULL is refused below */
    struct command_result result;
    const struct database_change *changes;
    struct proposal *proposal;
    size_t count;

    database_apply(consensus->database, entry->index, is_skipped(consensus, entry) ? NULL : command,
                   &result);
    changes = database_changes(consensus->database, &count);
    for (size_t i = 0; i < count; i++)
        consensus_put_change(consensus, &changes[i]);
    proposal = find_proposal(consensus, command);
    if (proposal && !proposal->applied) {
        proposal->applied = true;
        *proposal->result = result;
        co_cond_signal(&proposal->changed);
    } else {
        command_result_done(&result);
    }
    if (count > 0 && consensus->options.on_applied)
        consensus->options.on_applied(consensus->options.arg, changes, count);
    json_decref(command);
}

/* What was accepted in an earlier term and is not applied by now never will be. */
static void note_term(struct consensus *consensus, uint64_t term)
{
    if (term == consensus->applied_term)
        return;
    consensus->applied_term = term;
    list_for_each (node, &consensus->proposals) {
        struct proposal *proposal = list_entry(node, struct proposal, node);

        if (!proposal->applied && proposal->term != 0 && proposal->term < term) {
            SOMETIMES("consensus: the leader changes with a proposal pending, it is lost");
            proposal->lost = true;
            co_cond_signal(&proposal->changed);
        }
    }
}

static void apply(struct consensus *consensus, const struct raft_ready *ready)
{
    if (ready->apply_count == 0)
        return;
    for (size_t i = 0; i < ready->apply_count; i++) {
        const struct raft_entry *entry = ready->apply[i];

        assert(entry->index == consensus->applied + 1);
        consensus->applied = entry->index;
        note_term(consensus, entry->term);
        if (entry->type == RAFT_NORMAL)
            apply_command(consensus, entry);
    }
    if (!io_timer_armed(&consensus->flush))
        io_timer_arm(consensus->io, &consensus->flush, io_now_ns(consensus->io) + FLUSH_NS);
    co_cond_broadcast(&consensus->progress);
}

/* ---- snapshots ---- */

static void install_snapshot(struct consensus *consensus, const struct raft_snapshot *base)
{
    struct database *database = consensus->database;
    int r;

    SOMETIMES("consensus: the database is replaced by a snapshot");
    database_clear(database);
    kv_batch_done(&consensus->state);
    kv_delete_range(&consensus->state, CONSENSUS_STATE_PREFIX, CONSENSUS_STATE_END);
    r = snapshot_reader_install(consensus->incoming, database, &consensus->state,
                                CONSENSUS_STATE_PREFIX);
    assert(r == 0); /* it was checked whole before raft_chunk_stored() */
    snapshot_reader_free(take_ptr(consensus->incoming));
    consensus->applied = base->index;
    consensus->applied_term = base->term;
    list_for_each (node, &consensus->proposals) {
        struct proposal *proposal = list_entry(node, struct proposal, node);

        SOMETIMES_IF(proposal->term != 0, "consensus: a snapshot hides what became of a proposal");
        proposal->unknown = proposal->term != 0;
        co_cond_signal(&proposal->changed);
    }
    if (consensus->options.on_loaded)
        consensus->options.on_loaded(consensus->options.arg);
    co_cond_broadcast(&consensus->progress);
}

static void take_chunk(struct consensus *consensus, const struct raft_chunk *chunk)
{
    int r = 0;

    if (chunk->offset == 0) {
        snapshot_reader_free(take_ptr(consensus->incoming));
        r = snapshot_reader_new(&consensus->incoming);
    }
    if (r == 0)
        r = consensus->incoming ? snapshot_reader_add(consensus->incoming, chunk->data, chunk->size)
                                : -EPROTO;
    if (r == 0 && chunk->done)
        r = snapshot_reader_check(consensus->incoming);
    if (r < 0)
        snapshot_reader_free(take_ptr(consensus->incoming));
    raft_chunk_stored(consensus->raft, io_now_ns(consensus->io), r);
}

static void send_chunk(struct consensus *consensus, const struct raft_chunk_request *request)
{
    struct raft_chunk chunk = {.offset = request->offset};
    struct raft_snapshot at;
    int r;

    if (request->snapshot_index == 0 || !consensus->outgoing ||
        snapshot_writer_at(consensus->outgoing)->index != request->snapshot_index) {
        chunk.offset = 0;
        snapshot_writer_free(take_ptr(consensus->outgoing));
        if (raft_snapshot_at(consensus->raft, consensus->applied, &at) < 0 ||
            snapshot_writer_new(consensus->database, &at, &consensus->outgoing) < 0)
            return; /* asked again later */
    }
    chunk.snapshot = *snapshot_writer_at(consensus->outgoing);
    chunk.size = snapshot_writer_piece(consensus->outgoing, chunk.offset, RAFT_CHUNK_BYTES_MAX,
                                       &chunk.data, &chunk.done);
    r = raft_send_chunk(consensus->raft, io_now_ns(consensus->io), request->peer, &chunk);
    if (r == -EINVAL) /* the log begins after it by now: asked again, another one is begun */
        snapshot_writer_free(take_ptr(consensus->outgoing));
    /* -ESTALE: nobody waits for it any more */
}

/* ---- writing ---- */

struct write_job {
    struct consensus *consensus;
    int result;
};

static void write_job_run(void *arg)
{
    struct write_job *job = arg;

    job->result = kv_write(job->consensus->options.kv, &job->consensus->writing);
}

static void persisted(struct consensus *consensus, uint64_t batch)
{
    consensus->persist.batch = 0;
    raft_persisted(consensus->raft, io_now_ns(consensus->io), batch);
}

/* One batch: what Raft wants and what applying changed, with its index. */
static int co_write_batch(struct consensus *consensus)
{
    struct raft_persist persist = consensus->persist;
    struct write_job job = {.consensus = consensus, .result = -EIO};
    uint64_t applied;

    if (persist.install)
        install_snapshot(consensus, persist.base);
    applied = consensus->applied;
    kv_batch_init(&consensus->writing);
    if (persist.batch)
        consensus_put_raft(&consensus->writing, &persist);
    kv_batch_append(&consensus->writing, &consensus->state);
    kv_put(&consensus->writing, CONSENSUS_KEY_APPLIED, &applied, sizeof(applied));
    consensus->flush_due = false;
    io_timer_disarm(consensus->io, &consensus->flush);

    if (PLANTED(STORE_NOT_AWAITED) && persist.batch) {
        persisted(consensus, persist.batch);
        persist.batch = 0;
        consensus_drive(consensus);
    }
    co_offload(consensus->io, write_job_run, &job);
    kv_batch_done(&consensus->writing);
    if (job.result < 0)
        return job.result;
    consensus->durable_applied = applied;
    if (persist.batch) /* else one may have come meanwhile: it is the next */
        persisted(consensus, persist.batch);
    return 0;
}

static void compact(struct consensus *consensus)
{
    struct raft_status status;

    raft_status(consensus->raft, &status);
    if (consensus->durable_applied > status.base_index + COMPACT_ENTRIES ||
        status.log_bytes > consensus->options.log_bytes_max / 2) /* at the whole it takes no more */
        raft_compact(consensus->raft, consensus->durable_applied);
}

static void writer_main(void *arg)
{
    struct consensus *consensus = arg;

    while (!consensus->failed) {
        int r;

        if (!consensus->persist.batch && !consensus->flush_due) {
            if (consensus->closing)
                break;
            r = co_cond_wait(&consensus->write_wanted);
            if (r < 0)
                break; /* the machine dies: nothing more can be written */
            continue;
        }
        r = co_write_batch(consensus);
        if (r < 0) {
            consensus->failed = true;
            log_error(consensus->io, "consensus", "the database's store failed; this node stops",
                      "error=%s", strerror(-r));
            if (consensus->options.on_failure)
                consensus->options.on_failure(consensus->options.arg, r);
            break;
        }
        compact(consensus);
        consensus_drive(consensus);
    }
    co_group_done(&consensus->group);
}

static void flush_now(void *arg)
{
    struct consensus *consensus = arg;

    consensus->flush_due = true;
    co_cond_signal(&consensus->write_wanted);
}

/* ---- the core's wishes ---- */

static void send_message(struct consensus *consensus, const struct raft_message *message)
{
    struct bus_send send = {.to = message->to,
                            .channel = BUS_CONTROL,
                            .type = CONSENSUS_TYPE_RAFT,
                            .flags = BUS_CHECKSUM,
                            .data = consensus->message};
    int r;

    send.data_bytes = raft_message_size(message);
    raft_message_encode(message, consensus->message);
    if (send.data_bytes > BUS_COPY_MAX) {
        uint8_t *copy = malloc(send.data_bytes); /* entries of many KiB: rare */

        if (!copy)
            return;
        memcpy(copy, consensus->message, send.data_bytes);
        send.data = copy;
        send.sent = free;
        send.sent_arg = copy;
    }
    r = bus_send(consensus->options.bus, &send);
    if (r < 0 && send.sent)
        send.sent(send.sent_arg);
    /* a message that is lost is never wrong */
}

static void take_role(struct consensus *consensus, const struct raft_ready *ready)
{
    if (!ready->role_changed)
        return;
    log_info(consensus->io, "consensus", "leadership changed", "term=%llu leader=%llu",
             (unsigned long long)ready->role.term, (unsigned long long)ready->role.leader);
    if (ready->role.state != RAFT_LEADER)
        snapshot_writer_free(take_ptr(consensus->outgoing));
    co_cond_broadcast(&consensus->progress);
    if (consensus->options.on_role)
        consensus->options.on_role(consensus->options.arg, &ready->role);
}

static void take_ready(struct consensus *consensus, const struct raft_ready *ready)
{
    for (size_t i = 0; i < ready->message_count; i++)
        send_message(consensus, ready->messages[i]);
    if (ready->persist.batch) {
        consensus->persist = ready->persist;
        co_cond_signal(&consensus->write_wanted);
    }
    apply(consensus, ready);
    take_role(consensus, ready);
    for (size_t i = 0; i < ready->chunk_request_count; i++)
        send_chunk(consensus, &ready->chunk_requests[i]);
    if (ready->chunk)
        take_chunk(consensus, ready->chunk);
    for (size_t i = 0; i < ready->lost_count && consensus->options.on_lost; i++)
        consensus->options.on_lost(consensus->options.arg, ready->lost[i]);
}

/* Callbacks of applying may propose, and so come back here: that is one loop, not a recursion. */
void consensus_drive(struct consensus *consensus)
{
    struct raft_ready ready;

    if (consensus->driving) {
        consensus->drive_again = true;
        return;
    }
    consensus->driving = true;
    do {
        consensus->drive_again = false;
        while (!consensus->failed && raft_ready(consensus->raft, &ready))
            take_ready(consensus, &ready);
    } while (consensus->drive_again);
    consensus->driving = false;
    if (!consensus->closing && raft_next_tick_ns(consensus->raft) != UINT64_MAX)
        io_timer_arm(consensus->io, &consensus->tick, raft_next_tick_ns(consensus->raft));
}

static void tick(void *arg)
{
    struct consensus *consensus = arg;

    raft_tick(consensus->raft, io_now_ns(consensus->io));
    consensus_drive(consensus);
}

static void handle_raft(void *arg, const struct bus_message *bus_message)
{
    struct consensus *consensus = arg;
    struct raft_view entries[RAFT_MESSAGE_ENTRIES_MAX];
    struct raft_message message;
    int r;

    r = raft_message_decode(bus_message->data, bus_message->data_bytes, entries, &message);
    if (r == 0 && message.from != bus_message->from)
        r = -EPROTO;
    if (r == 0)
        r = raft_receive(consensus->raft, io_now_ns(consensus->io), &message);
    if (r < 0)
        log_warn(consensus->io, "consensus", "message refused", "from=%llu error=%s",
                 (unsigned long long)bus_message->from, strerror(-r));
    consensus_drive(consensus);
}

/* ---- membership and looks ---- */

int co_consensus_wait_applied(struct consensus *consensus, uint64_t index, uint64_t timeout_ns)
{
    uint64_t deadline_ns = io_now_ns(consensus->io) + timeout_ns;

    while (consensus->applied < index) {
        int r =
            consensus->ending ? -ECANCELED : co_cond_wait_until(&consensus->progress, deadline_ns);

        if (r < 0)
            return r;
    }
    return 0;
}

int consensus_change(struct consensus *consensus, uint64_t node, enum raft_member_role role)
{
    int r = raft_change(consensus->raft, io_now_ns(consensus->io), node, role, NULL);

    consensus_drive(consensus);
    return r;
}

int consensus_transfer(struct consensus *consensus)
{
    int r = raft_transfer(consensus->raft, io_now_ns(consensus->io), 0);

    consensus_drive(consensus);
    return r;
}

void consensus_peer_down(struct consensus *consensus, uint64_t node)
{
    raft_peer_down(consensus->raft, io_now_ns(consensus->io), node);
    consensus_drive(consensus);
}

struct database *consensus_database(struct consensus *consensus)
{
    return consensus->database;
}

struct raft *consensus_raft(struct consensus *consensus)
{
    return consensus->raft;
}

uint64_t consensus_applied(const struct consensus *consensus)
{
    return consensus->applied;
}

bool consensus_leads(const struct consensus *consensus)
{
    struct raft_status status;

    raft_status(consensus->raft, &status);
    return status.role.state == RAFT_LEADER && consensus->applied_term == status.role.term;
}

/* ---- life ---- */

static uint64_t raft_random(void *arg)
{
    return io_random(((struct consensus *)arg)->io);
}

static void consensus_free(struct consensus *consensus)
{
    kv_batch_done(&consensus->state);
    snapshot_writer_free(consensus->outgoing);
    snapshot_reader_free(consensus->incoming);
    raft_free(consensus->raft);
    database_free(consensus->database);
    free(consensus->message);
    free(consensus);
}

static struct consensus *consensus_new(struct io *io, const struct consensus_options *options)
{
    struct consensus *consensus = calloc(1, sizeof(*consensus));

    if (!consensus)
        return NULL;
    consensus->io = io;
    consensus->options = *options;
    if (consensus->options.log_bytes_max == 0)
        consensus->options.log_bytes_max = LOG_BYTES_MAX;
    kv_batch_init(&consensus->state);
    list_init(&consensus->proposals);
    co_group_init(&consensus->group);
    co_cond_init(&consensus->write_wanted);
    co_cond_init(&consensus->progress);
    io_timer_init(&consensus->tick, tick, consensus);
    io_timer_init(&consensus->flush, flush_now, consensus);
    consensus->message = malloc(RAFT_MESSAGE_SIZE_MAX);
    if (!consensus->message || database_new(&consensus->database) < 0) {
        consensus_free(consensus);
        return NULL;
    }
    return consensus;
}

int co_consensus_open(struct io *io, const struct consensus_options *options,
                      struct consensus **ret_consensus)
{
    struct consensus *consensus = consensus_new(io, options);
    struct consensus_loader loader = {.consensus = consensus};
    int r;

    if (!consensus)
        return -ENOMEM;
    loader.raft.random = raft_random;
    loader.raft.random_arg = consensus;
    loader.raft.log_bytes_max = consensus->options.log_bytes_max;
    co_offload(io, consensus_load, &loader);
    r = loader.result;
    if (r == 0)
        r = raft_start(consensus->raft, io_now_ns(io));
    if (r == 0) {
        co_group_add(&consensus->group, 1);
        r = co_spawn(io, "consensus-writer", writer_main, consensus);
        if (r < 0)
            co_group_done(&consensus->group);
    }
    if (r < 0) {
        consensus_free(consensus);
        return r;
    }
    consensus->applied = MAX(loader.raft.applied, loader.raft.base.index);
    consensus->durable_applied = consensus->applied;
    bus_handle(options->bus, CONSENSUS_TYPE_RAFT, handle_raft, consensus);
    bus_handle(options->bus, CONSENSUS_TYPE_PROPOSE, consensus_handle_propose, consensus);
    *ret_consensus = consensus; /* before the first callbacks: they may use it */
    consensus_drive(consensus);
    return 0;
}

void co_consensus_close(struct consensus *consensus)
{
    if (!consensus)
        return;
    bus_handle(consensus->options.bus, CONSENSUS_TYPE_RAFT, NULL, NULL);
    bus_handle(consensus->options.bus, CONSENSUS_TYPE_PROPOSE, NULL, NULL);
    consensus->closing = true;
    io_timer_disarm(consensus->io, &consensus->tick);
    io_timer_disarm(consensus->io, &consensus->flush);
    consensus_end_proposals(consensus);
    co_cond_broadcast(&consensus->write_wanted);
    co_group_wait(&consensus->group);
    io_timer_disarm(consensus->io, &consensus->tick);
    io_timer_disarm(consensus->io, &consensus->flush);
    consensus_free(consensus);
}
