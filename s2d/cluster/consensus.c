/* Every event (a message, a tick, a proposal, a batch written) ends in drive(): it takes what the
 * Raft core wants done until there is no more. Only writing the store takes time; one coroutine
 * does that, batch by batch.
 *
 * A proposal names itself ("by": node, start counter, number). Whoever proposed waits until its own
 * database has applied it. If an entry of a later term than the one it was accepted in comes first,
 * it is lost for certain (the new leader's log did not have it), and it is proposed again. That is
 * why the leader takes a proposal only for the term that the sender has in mind. */
#include "s2d/cluster/consensus.h"

#include <stdio.h>

#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/base/sometimes.h"
#include "s2d/bus/message_types.h"
#include "s2d/cluster/snapshot.h"

#define TYPE_RAFT (BUS_TYPE_RAFT + 0)
#define TYPE_PROPOSE (BUS_TYPE_RAFT + 1)

#define PROPOSE_CALL_NS (2 * SEC)
#define RETRY_NS (20 * MS)
#define FLUSH_NS (500 * MS) /* state that no batch of Raft's carried is written after */
#define COMPACT_ENTRIES 4096

struct proposal {
    struct list node;
    uint64_t number;
    uint64_t term;      /* it can be in the log of this term's leader only; 0: nowhere yet */
    uint64_t only_term; /* may be proposed in this term only, by us as its leader; 0: any, anyhow */
    bool applied, lost;
    bool unknown; /* a snapshot may hold it or not */
    struct command_result *result;
    struct co_cond changed;
};

struct consensus {
    struct io *io;
    struct consensus_options options;
    struct database *database;
    struct raft *raft;
    struct io_timer tick;
    bool driving, drive_again;
    bool ending; /* no proposals any more */
    bool closing, failed;

    /* applied in RAM, not yet written */
    struct kv_batch state;
    uint64_t applied, applied_term;
    uint64_t durable_applied;
    struct io_timer flush;
    bool flush_due;

    /* the writer */
    struct co_group group;
    struct co_cond write_wanted;
    struct raft_persist persist; /* batch 0: none waits */
    struct kv_batch writing;

    struct list proposals;
    uint64_t next_number;
    struct co_cond progress; /* an entry was applied, or the leader changed */

    struct snapshot_writer *outgoing; /* one snapshot being sent, to all who need one */
    struct snapshot_reader *incoming;
    uint8_t *message; /* room for one encoded message */
};

static void drive(struct consensus *consensus);

/* ---- what the store looks like ---- */

#define KEY_HARD "raft/hard"
#define KEY_BASE "raft/base"
#define KEY_APPLIED "state/applied"
#define LOG_PREFIX "raft/log/"
#define STATE_PREFIX "db/"

static void log_key(uint64_t index, char *ret_key)
{
    snprintf(ret_key, DATABASE_KEY_MAX, LOG_PREFIX "%016llx", (unsigned long long)index);
}

static void put_hard_state(struct kv_batch *batch, const struct raft_hard_state *hard)
{
    kv_put(batch, KEY_HARD, hard, sizeof(*hard));
}

static void put_base(struct kv_batch *batch, const struct raft_snapshot *base)
{
    uint8_t bytes[16 + RAFT_CONFIGURATION_BYTES_MAX];
    size_t size = raft_configuration_encode(&base->configuration, bytes + 16);

    memcpy(bytes, &base->index, 8);
    memcpy(bytes + 8, &base->term, 8);
    kv_put(batch, KEY_BASE, bytes, 16 + size);
}

static void put_entry(struct kv_batch *batch, const struct raft_entry *entry)
{
    size_t size = 9 + entry->size;
    uint8_t *bytes = malloc(size);
    char key[DATABASE_KEY_MAX];

    if (!bytes)
        abort();
    memcpy(bytes, &entry->term, 8);
    bytes[8] = entry->type;
    memcpy(bytes + 9, entry->data, entry->size);
    log_key(entry->index, key);
    kv_put(batch, key, bytes, size);
    free(bytes);
}

void consensus_erase(struct kv_batch *batch)
{
    kv_delete_range(batch, "raft/", "raft0"); /* '0' follows '/' */
    kv_delete_range(batch, "state/", "state0");
    kv_delete_range(batch, STATE_PREFIX, "db0");
}

int consensus_bootstrap(struct kv *kv, uint64_t node)
{
    struct raft_configuration configuration = {.count = 1,
                                               .members = {{.id = node, .role = RAFT_VOTER}}};
    struct raft_hard_state hard;
    struct raft_snapshot base;
    struct kv_batch batch;
    uint64_t applied;
    int r;

    r = raft_bootstrap(&configuration, &hard, &base);
    if (r < 0)
        return r;
    applied = base.index;
    kv_batch_init(&batch);
    consensus_erase(&batch);
    put_hard_state(&batch, &hard);
    put_base(&batch, &base);
    kv_put(&batch, KEY_APPLIED, &applied, sizeof(applied));
    r = kv_write(kv, &batch);
    kv_batch_done(&batch);
    return r;
}

/* ---- loading ---- */

struct loader {
    struct consensus *consensus;
    struct raft_options raft;
    int result;
};

static int load_fixed(void *arg, const char *key, const void *value, size_t bytes)
{
    struct loader *loader = arg;

    if (strcmp(key, KEY_HARD) == 0) {
        if (bytes != sizeof(loader->raft.hard_state))
            return -EBADMSG;
        memcpy(&loader->raft.hard_state, value, bytes);
    } else if (strcmp(key, KEY_BASE) == 0) {
        if (bytes < 16)
            return -EBADMSG;
        memcpy(&loader->raft.base.index, value, 8);
        memcpy(&loader->raft.base.term, (const char *)value + 8, 8);
        return raft_configuration_decode((const char *)value + 16, bytes - 16,
                                         &loader->raft.base.configuration);
    } else if (strcmp(key, KEY_APPLIED) == 0) {
        if (bytes != sizeof(loader->raft.applied))
            return -EBADMSG;
        memcpy(&loader->raft.applied, value, bytes);
    }
    return 0;
}

static int load_entry(void *arg, const char *key, const void *value, size_t bytes)
{
    struct consensus *consensus = ((struct loader *)arg)->consensus;
    uint64_t index = strtoull(key + strlen(LOG_PREFIX), NULL, 16);
    struct raft_view view;

    if (index <= ((struct loader *)arg)->raft.base.index)
        return 0; /* compacted; its deletion was not written yet */
    if (bytes < 9)
        return -EBADMSG;
    memcpy(&view.term, value, 8);
    view.type = ((const uint8_t *)value)[8];
    view.size = bytes - 9;
    view.data = (const char *)value + 9;
    return raft_restore(consensus->raft, index, &view);
}

static int load_record(void *arg, const char *key, const void *value, size_t bytes)
{
    struct consensus *consensus = ((struct loader *)arg)->consensus;

    return database_load(consensus->database, key + strlen(STATE_PREFIX), value, bytes);
}

static uint64_t raft_random(void *arg)
{
    return io_random(((struct consensus *)arg)->io);
}

/* Runs on a worker; nobody else sees the consensus yet. */
static void load(void *arg)
{
    struct loader *loader = arg;
    struct consensus *consensus = loader->consensus;
    struct kv *kv = consensus->options.kv;

    loader->raft.id = consensus->options.node;
    loader->result = kv_each(kv, "raft/hard", load_fixed, loader);
    if (loader->result == 0)
        loader->result = kv_each(kv, KEY_BASE, load_fixed, loader);
    if (loader->result == 0)
        loader->result = kv_each(kv, KEY_APPLIED, load_fixed, loader);
    if (loader->result == 0)
        loader->result = kv_each(kv, STATE_PREFIX, load_record, loader);
    if (loader->result == 0)
        loader->result = database_verify(consensus->database);
    if (loader->result == 0)
        loader->result = raft_new(&loader->raft, &consensus->raft);
    if (loader->result == 0)
        loader->result = kv_each(kv, LOG_PREFIX, load_entry, loader);
}

/* ---- applying ---- */

static void put_state(struct consensus *consensus, const struct database_change *change)
{
    char key[sizeof(STATE_PREFIX) + DATABASE_KEY_MAX] = STATE_PREFIX;
    json_t *json;
    char *text;

    database_key(change->table, change->id, key + strlen(STATE_PREFIX));
    if (change->removed) {
        kv_delete(&consensus->state, key);
        return;
    }
    json = record_to_json(change->table,
                          database_find(consensus->database, change->table, change->id));
    text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    if (!text)
        abort();
    kv_put(&consensus->state, key, text, strlen(text));
    free(text);
    json_decref(json);
}

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

static void apply_command(struct consensus *consensus, const struct raft_entry *entry)
{
    json_t *command = json_parse(entry->data, entry->size); /* NULL is refused below */
    struct command_result result;
    const struct database_change *changes;
    struct proposal *proposal;
    size_t count;

    database_apply(consensus->database, entry->index, command, &result);
    changes = database_changes(consensus->database, &count);
    for (size_t i = 0; i < count; i++)
        put_state(consensus, &changes[i]);
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
    kv_delete_range(&consensus->state, STATE_PREFIX, "db0");
    r = snapshot_reader_install(consensus->incoming, database, &consensus->state, STATE_PREFIX);
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
    (void)r; /* -ESTALE: nobody waits for it any more */
}

/* ---- writing ---- */

static void batch_raft(struct kv_batch *batch, const struct raft_persist *persist)
{
    char key[DATABASE_KEY_MAX];

    if (persist->install)
        kv_delete_range(batch, LOG_PREFIX, "raft/log0");
    if (persist->base) {
        put_base(batch, persist->base);
        log_key(persist->base->index + 1, key);
        kv_delete_range(batch, LOG_PREFIX, key);
    }
    if (persist->truncate_from) {
        log_key(persist->truncate_from, key);
        kv_delete_range(batch, key, "raft/log0");
    }
    for (size_t i = 0; i < persist->entry_count; i++)
        put_entry(batch, persist->entries[i]);
    put_hard_state(batch, &persist->hard_state);
}

struct write_job {
    struct consensus *consensus;
    int result;
};

static void write_job_run(void *arg)
{
    struct write_job *job = arg;

    job->result = kv_write(job->consensus->options.kv, &job->consensus->writing);
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
        batch_raft(&consensus->writing, &persist);
    kv_batch_append(&consensus->writing, &consensus->state);
    kv_put(&consensus->writing, KEY_APPLIED, &applied, sizeof(applied));
    consensus->flush_due = false;
    io_timer_disarm(consensus->io, &consensus->flush);

    co_offload(consensus->io, write_job_run, &job);
    kv_batch_done(&consensus->writing);
    if (job.result < 0)
        return job.result;
    consensus->durable_applied = applied;
    if (persist.batch) { /* else one may have come meanwhile: it is the next */
        consensus->persist.batch = 0;
        raft_persisted(consensus->raft, io_now_ns(consensus->io), persist.batch);
    }
    return 0;
}

static void compact(struct consensus *consensus)
{
    struct raft_status status;

    raft_status(consensus->raft, &status);
    if (consensus->durable_applied > status.base_index + COMPACT_ENTRIES)
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
        drive(consensus);
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
                            .type = TYPE_RAFT,
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
static void drive(struct consensus *consensus)
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
    drive(consensus);
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
    drive(consensus);
}

/* ---- proposing ---- */

struct propose_header {
    uint64_t term; /* the sender believes that we lead in it */
};

static void handle_propose(void *arg, const struct bus_message *message)
{
    struct consensus *consensus = arg;
    struct raft_status status;
    struct bus_send reply = {.channel = BUS_CONTROL};
    struct propose_header header;
    int r = -EPROTO;

    if (message->request == 0)
        return; /* who proposes waits for an answer */
    if (message->header_bytes == sizeof(header) && message->data_bytes > 0) {
        memcpy(&header, message->header, sizeof(header));
        raft_status(consensus->raft, &status);
        r = status.role.state == RAFT_LEADER && status.role.term == header.term
                ? raft_propose(consensus->raft, io_now_ns(consensus->io), message->data,
                               message->data_bytes, NULL, NULL)
                : -ESTALE;
    }
    r = bus_reply(consensus->options.bus, message, r, &reply);
    (void)r; /* a sender that is gone finds its command in the log, or not */
    drive(consensus);
}

/* Hands the text to the leader. Returns 0: it may be in the log of proposal->term; < 0: it is not,
 * try again. */
static int co_submit(struct consensus *consensus, struct proposal *proposal, const char *text)
{
    struct raft_status status;
    struct propose_header header;
    struct bus_reply reply = {0};
    struct bus_send send = {.channel = BUS_CONTROL,
                            .type = TYPE_PROPOSE,
                            .flags = BUS_CHECKSUM,
                            .header = &header,
                            .header_bytes = sizeof(header),
                            .data = text,
                            .data_bytes = strlen(text)};
    int r;

    raft_status(consensus->raft, &status);
    if (proposal->only_term &&
        (status.role.state != RAFT_LEADER || status.role.term != proposal->only_term))
        return -ESTALE;
    proposal->lost = false;
    proposal->unknown = false;
    proposal->term = status.role.term;
    if (status.role.state == RAFT_LEADER) {
        r = raft_propose(consensus->raft, io_now_ns(consensus->io), text, strlen(text), NULL, NULL);
        drive(consensus);
        return r;
    }
    if (status.role.leader == 0 ||
        !bus_is_up(consensus->options.bus, status.role.leader, BUS_CONTROL))
        return -EHOSTUNREACH;
    send.to = status.role.leader;
    header.term = status.role.term;
    r = co_bus_call(consensus->options.bus, &send, PROPOSE_CALL_NS, &reply);
    SOMETIMES_IF(r == -ENOTCONN, "consensus: the way to the leader breaks under a proposal");
    if (r == -ENOTCONN || r == -ETIMEDOUT)
        return 0; /* it may have arrived */
    return r < 0 ? r : reply.result;
}

/* Waits until the proposal is applied or lost. Returns 0, -EAGAIN (lost), -ETIMEDOUT, -ECANCELED.
 */
static int co_await (struct consensus *consensus, struct proposal *proposal, uint64_t deadline_ns)
{
    while (!proposal->applied && !proposal->lost) {
        int r;

        if (consensus->ending)
            return -ECANCELED;
        if (proposal->unknown)
            return -ETIMEDOUT;
        r = co_cond_wait_until(&proposal->changed, deadline_ns);
        if (r < 0)
            return proposal->applied ? 0 : r;
    }
    return proposal->applied ? 0 : -EAGAIN;
}

static int co_propose_until(struct consensus *consensus, struct proposal *proposal,
                            const char *text, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now_ns = io_now_ns(consensus->io);
        int r;

        if (consensus->ending)
            return -ECANCELED;
        if (now_ns >= deadline_ns)
            return -EHOSTUNREACH;
        r = co_submit(consensus, proposal, text);
        if (r == 0)
            r = co_await (consensus, proposal, deadline_ns);
        else
            proposal->term = 0;
        if (r == 0 || r == -ETIMEDOUT || r == -ECANCELED || r == -EINVAL || r == -EMSGSIZE ||
            (r == -ESTALE && proposal->only_term))
            return r;
        r = co_cond_wait_until(&consensus->progress,
                               MIN(deadline_ns, io_now_ns(consensus->io) + RETRY_NS));
        if (r == -ECANCELED)
            return r;
    }
}

static char *command_text_with_name(struct consensus *consensus, const json_t *command,
                                    uint64_t number)
{
    json_t *named = json_copy((json_t *)command);
    char *text = NULL;

    if (named && json_object_set_new(named, "by",
                                     json_pack("[I,I,I]", (json_int_t)consensus->options.node,
                                               (json_int_t)consensus->options.start_counter,
                                               (json_int_t)number)) == 0)
        text = json_dumps(named, JSON_COMPACT);
    json_decref(named);
    return text;
}

static const char *propose_failure(int code)
{
    switch (code) {
    case -EHOSTUNREACH:
        return "the cluster has no quorum: no leader could be reached in time";
    case -ETIMEDOUT:
        return "no answer in time: it may or may not have been done; look before trying again";
    case -ECANCELED:
        return "this node is stopping";
    case -ESTALE:
        return "this node does not lead any more";
    default:
        return "the command was not accepted";
    }
}

int co_consensus_propose(struct consensus *consensus, const json_t *command, uint64_t timeout_ns,
                         struct command_result *ret_result)
{
    return co_consensus_propose_in(consensus, 0, command, timeout_ns, ret_result);
}

void consensus_end_proposals(struct consensus *consensus)
{
    consensus->ending = true;
    list_for_each (node, &consensus->proposals)
        co_cond_broadcast(&list_entry(node, struct proposal, node)->changed);
    co_cond_broadcast(&consensus->progress);
}

int co_consensus_propose_in(struct consensus *consensus, uint64_t term, const json_t *command,
                            uint64_t timeout_ns, struct command_result *ret_result)
{
    struct proposal proposal = {
        .number = ++consensus->next_number, .only_term = term, .result = ret_result};
    char *text = command_text_with_name(consensus, command, proposal.number);
    int r;

    *ret_result = (struct command_result){0};
    if (!text)
        return ret_result->code = -ENOMEM;
    co_cond_init(&proposal.changed);
    list_push_back(&consensus->proposals, &proposal.node);
    co_group_add(&consensus->group, 1);
    r = co_propose_until(consensus, &proposal, text, io_now_ns(consensus->io) + timeout_ns);
    list_remove(&proposal.node);
    free(text);
    if (r < 0 && !proposal.applied) {
        ret_result->code = r;
        snprintf(ret_result->message, sizeof(ret_result->message), "%s", propose_failure(r));
    }
    co_group_done(&consensus->group);
    return ret_result->code;
}

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

/* ---- membership and looks ---- */

int consensus_change(struct consensus *consensus, uint64_t node, enum raft_member_role role)
{
    int r = raft_change(consensus->raft, io_now_ns(consensus->io), node, role, NULL);

    drive(consensus);
    return r;
}

int consensus_transfer(struct consensus *consensus)
{
    int r = raft_transfer(consensus->raft, io_now_ns(consensus->io), 0);

    drive(consensus);
    return r;
}

void consensus_peer_down(struct consensus *consensus, uint64_t node)
{
    raft_peer_down(consensus->raft, io_now_ns(consensus->io), node);
    drive(consensus);
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
    struct loader loader = {.consensus = consensus};
    int r;

    if (!consensus)
        return -ENOMEM;
    loader.raft.random = raft_random;
    loader.raft.random_arg = consensus;
    co_offload(io, load, &loader);
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
    bus_handle(options->bus, TYPE_RAFT, handle_raft, consensus);
    bus_handle(options->bus, TYPE_PROPOSE, handle_propose, consensus);
    *ret_consensus = consensus; /* before the first callbacks: they may use it */
    drive(consensus);
    return 0;
}

void co_consensus_close(struct consensus *consensus)
{
    if (!consensus)
        return;
    bus_handle(consensus->options.bus, TYPE_RAFT, NULL, NULL);
    bus_handle(consensus->options.bus, TYPE_PROPOSE, NULL, NULL);
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
