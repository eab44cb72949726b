/* Seals and marks: what fences a writer, and what tells of commits outside of records. */
#include "cache-tier/store_internal.h"

/* ---- a stream's state as a record ---- */

static bool stream_encode(struct log_item *item, void *to)
{
    struct stream_control *control = container_of(item, struct stream_control, control.item);
    const struct stream *stream = control->stream;
    struct log_stream_record *record = to;

    /* as it is where this record stands: what was placed before it is counted, what is behind is
     * not */
    control->epoch = stream->sealed_epoch;
    control->watermark = stream->watermark;
    record->head.kind = LOG_STREAM;
    record->head.bytes = sizeof(*record);
    record->vdisk = stream->vdisk;
    record->sealed_epoch = stream->sealed_epoch;
    record->session = stream->session;
    record->seq = stream->placed_seq;
    record->watermark_session = stream->watermark.session;
    record->watermark_seq = stream->watermark.seq;
    return true;
}

static void stream_done(struct log_item *item, int result)
{
    struct stream_control *control = container_of(item, struct stream_control, control.item);
    struct stream *stream = control->stream;

    if (result == 0) {
        stream->durable_epoch = MAX(stream->durable_epoch, control->epoch);
        if (log_position_compare(control->watermark, stream->durable_watermark) > 0)
            stream->durable_watermark = control->watermark;
    }
    control_done(&control->control, result);
}

void stream_control_append(struct store *store, struct stream *stream,
                           struct stream_control *control, struct control_wait *wait)
{
    static const struct log_item_ops ops = {.encode = stream_encode, .done = stream_done};

    control_init(&control->control, store, wait, &ops, sizeof(struct log_stream_record));
    control->stream = stream;
    control_append(&control->control);
}

static int co_stream_persist(struct store *store, struct stream *stream)
{
    struct stream_control control;
    struct control_wait wait = {0};

    stream_control_append(store, stream, &control, &wait);
    return co_control_wait(&wait);
}

/* ---- sealing ---- */

/* What waits for room was never promised anything: it is refused rather than waited for, since a
 * full log may stay full until the new owner's watermarks come. */
static void turn_away_waiting(struct store *store, struct stream *stream)
{
    log_reject_waiting(store->log, store_is_append_of, stream, -ESTALE);
    stream->accepted_seq = stream->placed_seq;
}

void store_let_go(struct store *store, uint64_t vdisk, uint64_t session)
{
    struct stream *stream = stream_find(&store->streams, vdisk);

    if (stream && stream->session == session)
        turn_away_waiting(store, stream);
}

/* What is remembered of clients' requests that count. */
static int seal_fill_recent(const struct stream *stream, struct store_seal *seal)
{
    size_t count = recent_count(&stream->recent);
    cleanup(freep) struct recent_piece *pieces = calloc(MAX(count, (size_t)1), sizeof(*pieces));

    if (!pieces)
        return -ENOMEM;
    recent_list(&stream->recent, pieces);
    seal->tail = calloc(count + stream->pending_count + 1, sizeof(*seal->tail));
    if (!seal->tail)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        seal->tail[seal->tail_count++] = (struct store_tail_record){
            .position = pieces[i].position,
            .slab = pieces[i].slab,
            .kind = RECORD_WRITE,
            .block = pieces[i].block,
            .count = pieces[i].count,
            .client_session = pieces[i].client_session,
            .client_number = pieces[i].client_number,
        };
    return 0;
}

static int seal_fill(const struct stream *stream, struct store_seal *ret_seal)
{
    struct store_seal seal = {
        .sealed_epoch = stream->sealed_epoch,
        .watermark = stream->watermark,
        .durable = {.session = stream->session, .seq = stream->durable_seq},
    };
    int r = seal_fill_recent(stream, &seal);

    if (r < 0)
        return r;
    list_for_each (node, &stream->pending) {
        const struct pending *pending = list_entry(node, struct pending, node);

        seal.tail[seal.tail_count++] = (struct store_tail_record){
            .position = pending->position,
            .where = pending->where,
            .slab = pending->slab,
            .column = pending->column,
            .kind = pending->kind,
            .flags = pending->flags & ~(uint32_t)RECORD_VERIFIED,
            .block = pending->block,
            .count = pending->count,
            .client_session = pending->client_session,
            .client_number = pending->client_number,
        };
    }
    *ret_seal = seal;
    return 0;
}

int co_store_seal(struct store *store, uint64_t vdisk, uint64_t epoch, uint64_t session,
                  struct store_seal *ret_seal)
{
    STORE_GATE(store);
    struct stream *stream = stream_find_or_add(&store->streams, vdisk);
    int r;

    if (!stream)
        return -ENOMEM;
    if (session > epoch || session == 0)
        return -EINVAL;
    if ((epoch < stream->sealed_epoch || session < stream->session) && !PLANTED(SEAL_IGNORED)) {
        SOMETIMES("store: a seal is refused a stale owner");
        *ret_seal = (struct store_seal){.sealed_epoch = stream->sealed_epoch};
        return -ESTALE;
    }
    SOMETIMES_IF(stream->accepted_seq != stream->placed_seq,
                 "store: a seal turns away records that wait for the log");
    turn_away_waiting(store, stream);
    INVARIANT(I4, epoch >= stream->sealed_epoch);
    stream->sealed_epoch = epoch;
    SOMETIMES_IF(session == stream->session, "store: the same session seals again");
    if (session > stream->session || PLANTED(SEAL_IGNORED)) {
        stream->session = session;
        stream->accepted_seq = stream->placed_seq = stream->durable_seq = 0;
    }
    r = PLANTED(SEAL_VOLATILE) ? 0 : co_stream_persist(store, stream);
    if (r < 0)
        return r;
    INVARIANT(I4, stream->durable_epoch >= epoch);
    SOMETIMES_IF(stream->sealed_epoch != epoch, "store: a seal is overtaken while it is written");
    if (stream->sealed_epoch != epoch || stream->session != session) {
        *ret_seal = (struct store_seal){.sealed_epoch = stream->sealed_epoch};
        return -ESTALE; /* somebody newer came meanwhile */
    }
    return seal_fill(stream, ret_seal);
}

void store_seal_done(struct store_seal *seal)
{
    free(take_ptr(seal->tail));
    seal->tail_count = 0;
}

int co_store_mark(struct store *store, uint64_t vdisk, uint64_t epoch,
                  struct log_position watermark, bool durable)
{
    STORE_GATE(store);
    struct stream *stream = stream_find(&store->streams, vdisk);

    if (!stream || (epoch < stream->sealed_epoch && !PLANTED(SEAL_RECORDS_ONLY)) ||
        watermark.session > stream->session) {
        SOMETIMES_IF(stream, "store: a watermark of a lower epoch is refused");
        return -ESTALE;
    }
    INVARIANT(I4, epoch >= stream->sealed_epoch);
    stream->sealed_epoch = MAX(stream->sealed_epoch, epoch);
    store_learn_watermark(store, stream, watermark, epoch);
    if (epoch <= stream->durable_epoch &&
        (!durable || log_position_compare(watermark, stream->durable_watermark) <= 0))
        return 0;
    return co_stream_persist(store, stream);
}
