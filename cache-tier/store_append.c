/* Records: how one is judged, what it becomes in the log, what follows once it is durable, and when
 * it counts as committed. A record is accepted or refused when it is handed in; being accepted is
 * being in order, not being durable. The same store_apply() runs at replay, on the same records in
 * the same order. */
#include "cache-tier/store_internal.h"
#include "s2d/base/checksum.h"

/* ---- judging ---- */

static int check_shape(const struct store *store, const struct store_append *append)
{
    const struct record *record = &append->record;

    if (record->block >= store->geometry.extent_blocks || record->count == 0 ||
        record->count > store->geometry.extent_blocks - record->block ||
        record->position.seq <= record->prev_seq || record->epoch < record->position.session ||
        log_position_compare(record->watermark, record->position) >= 0)
        return -EINVAL;
    switch ((enum record_kind)record->kind) {
    case RECORD_WRITE:
        if (record->count > RECORD_BLOCKS_MAX || !append->sums || !append->data ||
            (uintptr_t)append->data % BLOCK_SIZE != 0)
            return -EINVAL;
        return 0;
    case RECORD_ZERO:
        return 0;
    }
    return -EINVAL;
}

static int check_order(const struct stream *stream, const struct record *record)
{
    bool is_old = !stream || record->epoch < stream->sealed_epoch;

    SOMETIMES_IF(stream && is_old, "store: an epoch refuses a record");
    if ((is_old && !PLANTED(SEAL_IGNORED)) || !stream ||
        record->position.session != stream->session)
        return -ESTALE;
    if (record->prev_seq != stream->accepted_seq && !PLANTED(GAP_TAKEN)) {
        SOMETIMES("store: a gap in the sequence is refused");
        return -EILSEQ;
    }
    return 0;
}

static int check_place(const struct store *store, const struct record *record)
{
    const struct extent_row *row;
    int r = store_check_extent(store, record->vdisk, record->where);

    if (r != 0)
        return MIN(r, 0);
    row = extent_table_row(store->table, record->where.extent);
    return row->slab == record->slab && row->column == record->column ? 0 : -EINVAL;
}

static int check_sums(const struct store_append *append)
{
    const struct record *record = &append->record;

    if (record->kind != RECORD_WRITE || record->flags & RECORD_VERIFIED)
        return 0;
    return checksum_verify(append->data, record->count, record->vdisk, record->address,
                           append->sums) == record->count
               ? 0
               : -EBADMSG;
}

static int append_check(struct store *store, const struct store_append *append)
{
    int r;

    if (store->closing)
        return -ECANCELED;
    r = check_shape(store, append);
    if (r == 0)
        r = check_order(append->stream, &append->record);
    if (r == 0)
        r = check_place(store, &append->record);
    if (r == 0)
        r = check_sums(append);
    return r;
}

/* ---- the way into the log ---- */

static struct store_append *append_of(struct log_item *item)
{
    return container_of(item, struct store_append, item);
}

static bool begins_page(const struct store *store, uint32_t block)
{
    return block % CHECKSUM_PAGE_ENTRIES == 0 || block == store->geometry.extent_blocks;
}

/* A write pays for the images of its pages with its data, block by block. A trim has next to
 * nothing to say, but takes an image of each page that it leaves in part (of whole pages there is
 * none, only the row): thirty-six of them go into a block of the log. */
uint32_t store_record_owes(const struct store *store, uint8_t kind, uint32_t block, uint32_t count)
{
    uint32_t end = block + count;
    bool from_begin = begins_page(store, block), to_end = begins_page(store, end);

    if (kind == RECORD_WRITE || PLANTED(TRIMS_OWE_NOTHING))
        return 0;
    if (block / CHECKSUM_PAGE_ENTRIES == (end - 1) / CHECKSUM_PAGE_ENTRIES)
        return !(from_begin && to_end);
    return !from_begin + !to_end;
}

void store_encode_record(const struct record *record, uint32_t more_flags,
                         struct log_data_record *to)
{
    bool has_data = record->kind == RECORD_WRITE;

    to->head.kind = has_data ? LOG_WRITE : LOG_ZERO;
    to->head.lane = record->lane;
    to->head.column = record->column;
    to->head.bytes = sizeof(*to) + (has_data ? record->count * sizeof(uint64_t) : 0);
    to->head.data_blocks = has_data ? record->count : 0;
    to->head.flags = (record->flags & ~(uint32_t)RECORD_VERIFIED) | more_flags;
    to->vdisk = record->vdisk;
    to->extent = record->where.extent;
    to->slab = record->slab;
    to->generation = record->where.generation;
    to->session = record->position.session;
    to->seq = record->position.seq;
    to->epoch = record->epoch;
    to->watermark_session = record->watermark.session;
    to->watermark_seq = record->watermark.seq;
    to->client_session = record->client_session;
    to->client_number = record->client_number;
    to->address = record->address;
    to->block = record->block;
    to->count = record->count;
}

static bool append_encode(struct log_item *item, void *to)
{
    struct store_append *append = append_of(item);
    struct log_data_record *record = to;

    INVARIANT(I4, append->record.prev_seq == append->stream->placed_seq);
    append->stream->placed_seq = append->record.position.seq;
    store_encode_record(&append->record, 0, record);
    if (append->record.kind == RECORD_WRITE)
        memcpy(record->sums, append->sums, append->record.count * sizeof(uint64_t));
    return true;
}

static void append_done(struct log_item *item, int result)
{
    struct store_append *append = append_of(item);
    struct store *store = append->store;
    struct stream *stream = append->stream;

    if (result == 0) {
        struct record_place place = {item->batch_position, item->data_position};

        stream->durable_epoch = MAX(stream->durable_epoch, append->record.epoch);
        store_apply(store, stream, &append->record, append->sums, &place, false);
        counter_add(&store->counters.appended_records, 1);
        counter_add(&store->counters.appended_bytes, (uint64_t)item->data_blocks * BLOCK_SIZE);
        counter_add(&store->counters.healed_blocks,
                    append->record.flags & RECORD_REPAIR ? append->record.count : 0);
    }
    append->done(append, result);
}

static const struct log_item_ops append_ops = {.encode = append_encode, .done = append_done};

bool store_is_append_of(void *stream, const struct log_item *item)
{
    return item->ops == &append_ops &&
           (!stream || append_of((struct log_item *)item)->stream == stream);
}

/* What a takeover writes again may use half of the room that is kept, never what a checkpoint
 * needs: the store knows no bound to it. The records that fill the log may be the very ones that it
 * will commit. Never past a record of its stream that waits for room. */
static enum log_class append_class(const struct store *store, const struct store_append *append)
{
    if (!(append->record.flags & RECORD_REWRITE) || store->moving)
        return LOG_NORMAL;
    return log_any_waiting(store->log, store_is_append_of, append->stream) ? LOG_NORMAL : LOG_AGAIN;
}

void store_append(struct store *store, struct store_append *append)
{
    struct record *record = &append->record;
    bool has_data = record->kind == RECORD_WRITE;
    int r;

    append->store = store;
    append->stream = stream_find(&store->streams, record->vdisk);
    append->item.ops = &append_ops;
    append->item.data = append->data;
    append->item.flow = append->stream ? &append->stream->flow : NULL;
    r = append_check(store, append);
    if (r < 0) {
        append->item.data_blocks = 0;
        append->item.owed_blocks = 0;
        append->item.header_bytes = 0;
        log_reject(store->log, &append->item, r);
        return;
    }

    append->item.data_blocks = has_data ? record->count : 0;
    append->item.owed_blocks = store_record_owes(store, record->kind, record->block, record->count);
    append->item.header_bytes =
        sizeof(struct log_data_record) + append->item.data_blocks * sizeof(uint64_t);
    INVARIANT(I4, record->epoch >= append->stream->sealed_epoch);
    append->stream->sealed_epoch = record->epoch;
    append->stream->accepted_seq = record->position.seq;
    store_own_extent(store, record->where, record->vdisk, record->slab, record->column);
    INVARIANT(I10, extent_table_row(store->table, record->where.extent)->generation ==
                       record->where.generation);
    store_learn_watermark(store, append->stream, record->watermark, record->epoch);
    if (PLANTED(PARITY_AGAIN_RETIRES) && record->flags & RECORD_REWRITE)
        store_learn_watermark(store, append->stream,
                              (struct log_position){record->position.session, 0}, record->epoch);
    log_append(store->log, &append->item, append_class(store, append));
    checkpoint_poke(store); /* it may find no room in an idle log, up to the end of a lap */
}

/* ---- durable ---- */

/* The version right above a record that is not its stream's newest: the oldest of the block's
 * pending versions that are newer. OVERLAY_NONE: it is the newest itself. */
static uint32_t version_above(const struct store *store, uint64_t key, struct log_position position)
{
    uint32_t above = OVERLAY_NONE;

    for (uint32_t at = overlay_find(store->overlay, key); at != OVERLAY_NONE;
         at = overlay_older(store->overlay, at)) {
        uint32_t id = overlay_record(store->overlay, at);

        if (id == 0 ||
            log_position_compare(pending_by_id(&store->streams, id)->position, position) < 0)
            break;
        above = at;
    }
    return above;
}

static void apply_blocks(struct store *store, const struct record *record, const uint64_t *sums,
                         uint32_t ring_block, uint32_t id, bool moved)
{
    uint64_t key = store_key(store, record->where.extent, record->block);

    for (uint32_t i = 0; i < record->count; i++) {
        uint32_t above = moved ? version_above(store, key + i, record->position) : OVERLAY_NONE;

        if (above == OVERLAY_NONE)
            overlay_insert(store->overlay, ring_block + i, key + i, sums[i], id);
        else
            overlay_insert_below(store->overlay, above, ring_block + i, key + i, sums[i], id);
    }
}

static void commit_blocks(struct store *store, const struct pending *pending, uint64_t stamp)
{
    if (pending->kind == RECORD_ZERO) {
        /* a copy's zeros go with the next checkpoint, wherever it is (store->copies) */
        overlay_zero_commit(store->overlay, pending->where.extent, pending->block, pending->count,
                            pending->moved ? 0 : pending->batch_position, stamp);
        return;
    }
    for (uint32_t i = 0; i < pending->count; i++)
        overlay_commit(store->overlay, pending->ring_block + i, stamp);
}

/* What a copy holds is in place already, or something newer is: it and what is older goes. */
static void pass_over_blocks(struct store *store, const struct pending *pending)
{
    if (pending->kind == RECORD_ZERO) {
        overlay_zero_forget(store->overlay, pending->where.extent, pending->block, pending->count);
        return;
    }
    for (uint32_t i = 0; i < pending->count; i++)
        overlay_remove(store->overlay, pending->ring_block + i);
}

/* A takeover put something older over it: nobody could read it. */
static bool is_given_up(const struct stream *stream, const struct pending *pending)
{
    for (const struct list *node = pending->node.next;
         stream->older_count > 0 && node != &stream->pending; node = node->next) {
        const struct pending *above = list_entry(node, struct pending, node);

        if (above->flags & RECORD_OLDER && above->slab == pending->slab &&
            above->block < pending->block + pending->count &&
            pending->block < above->block + above->count)
            return true;
    }
    return false;
}

static void remember_request(struct stream *stream, const struct pending *pending)
{
    struct recent_piece piece = {
        .client_session = pending->client_session,
        .client_number = pending->client_number,
        .position = pending->position,
        .slab = pending->slab,
        .block = pending->block,
        .count = pending->count,
    };

    if (pending->client_session != 0 && (!is_given_up(stream, pending) || PLANTED(GIVEN_UP_COUNTS)))
        recent_add(&stream->recent, &piece);
}

static void pending_commit(struct store *store, struct pending *pending, uint64_t stamp)
{
    bool pass_over = pending->moved && store->passing_copies;

    INVARIANT(I2, log_position_compare(pending->position, pending->stream->watermark) <= 0);
    commit_blocks(store, pending, PLANTED(STAMP_OF_RECORD) ? pending->epoch : stamp);
    SOMETIMES_IF(pass_over, "replay: a copy that was destaged is passed over");
    if (pass_over)
        pass_over_blocks(store, pending);
    remember_request(pending->stream, pending);
    stream_remove_pending(pending->stream, pending);
    if (!pending->moved || pass_over) {
        pending_put(&store->streams, pending);
        return;
    }
    pending->stream = NULL; /* pending no more: another copy under way comes too late */
    list_push_back(&store->copies, &pending->node);
}

void store_apply(struct store *store, struct stream *stream, const struct record *record,
                 const uint64_t *sums, const struct record_place *place, bool moved)
{
    const struct extent_row *row = extent_table_row(store->table, record->where.extent);
    struct pending *pending;

    if (record->position.session == stream->session)
        stream->durable_seq = MAX(stream->durable_seq, record->position.seq);
    if (log_position_compare(record->watermark, stream->durable_watermark) > 0)
        stream->durable_watermark = record->watermark;
    if (record->kind == RECORD_ZERO && record->column == 1 && PLANTED(TRIM_LOST_ON_ONE))
        return;
    if (row->generation != record->where.generation || !(row->flags & EXTENT_USED)) {
        SOMETIMES("store: a record lands when its extent has another life");
        return; /* the extent has another life by now */
    }

    pending = pending_get(&store->streams, record);
    if (!pending) {
        store_fail(store, -ENOMEM);
        return;
    }
    pending->batch_position = place->batch_position;
    pending->ring_block = log_block_of(store->log, place->data_position);
    pending->moved = moved;
    stream_add_pending(stream, pending);
    if (record->kind == RECORD_ZERO)
        list_push_back(&store->extents[record->where.extent].zeros, &pending->zero_node);
    else
        apply_blocks(store, record, sums, pending->ring_block, pending->id, moved);
    rotten_forget(&store->rotten, store_key(store, record->where.extent, record->block),
                  record->count);
    if (log_position_compare(record->position, stream->watermark) <= 0 || PLANTED(DESTAGE_EARLY))
        pending_commit(store, pending, stream->watermark_epoch);
}

void store_settled(struct store *store)
{
    store->settled++;
    checkpoint_poke(store);
}

void store_learn_watermark(struct store *store, struct stream *stream,
                           struct log_position watermark, uint64_t epoch)
{
    if (log_position_compare(watermark, stream->watermark) <= 0)
        return;
    stream->watermark = watermark;
    stream->watermark_epoch = epoch;
    while (!list_empty(&stream->pending)) {
        struct pending *pending = list_first(&stream->pending, struct pending, node);

        if (log_position_compare(pending->position, watermark) > 0 ||
            (PLANTED(MARK_COVERS_NOT) && pending->position.session != watermark.session))
            break;
        SOMETIMES_IF(pending->position.session != watermark.session,
                     "store: a watermark covers records of an earlier session");
        pending_commit(store, pending, epoch);
    }
    store_settled(store);
}

void store_relocate(struct store *store, struct pending *pending, const struct record_place *place)
{
    uint32_t to = log_block_of(store->log, place->data_position);

    SOMETIMES_IF(pending->moved, "checkpoint: an uncommitted record is moved a second time");
    if (pending->kind == RECORD_WRITE)
        for (uint32_t i = 0; i < pending->count; i++)
            overlay_move(store->overlay, pending->ring_block + i, to + i);
    pending->moved = true;
    pending->ring_block = to;
    pending->batch_position = place->batch_position;
}

void store_drop_pending(struct store *store, struct pending *pending)
{
    if (pending->kind == RECORD_WRITE)
        for (uint32_t i = 0; i < pending->count; i++)
            overlay_remove(store->overlay, pending->ring_block + i);
    stream_remove_pending(pending->stream, pending);
    pending_put(&store->streams, pending);
    store_settled(store);
}
