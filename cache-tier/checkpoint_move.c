/* Steps 1 and 2 of a checkpoint: records that no watermark covers are copied to the log's head, and
 * the streams' states are said again there. A copy is told by LOG_MOVED; log_format.h says what
 * that costs. */
#include "cache-tier/checkpoint_internal.h"

/* ---- 1: records in the way ---- */

struct move {
    struct control control;
    struct pending *pending;
    struct stream *stream;        /* with the position: tells whether pending is still the */
    struct log_position position; /* same record */
    struct log_position watermark;
};

/* Its memory may serve another record by now; one of another vdisk may have the same position. */
static bool is_same_record(const struct move *move)
{
    return move->pending->stream == move->stream &&
           log_position_compare(move->pending->position, move->position) == 0;
}

static bool move_valid(const struct move *move)
{
    return is_same_record(move) && !is_being_dropped(move->control.store, move->pending);
}

/* As it was appended, with a newer watermark. */
static struct record pending_record(const struct pending *pending, struct log_position watermark)
{
    return (struct record){
        .vdisk = pending->stream->vdisk,
        .where = pending->where,
        .slab = pending->slab,
        .column = pending->column,
        .kind = pending->kind,
        .flags = pending->flags,
        .block = pending->block,
        .count = pending->count,
        .address = pending->address,
        .epoch = pending->epoch,
        .position = pending->position,
        .watermark = watermark,
        .client_session = pending->client_session,
        .client_number = pending->client_number,
    };
}

static bool move_encode(struct log_item *item, void *to)
{
    struct move *move = container_of(item, struct move, control.item);
    struct store *store = move->control.store;
    const struct pending *pending = move->pending;
    struct log_data_record *record = to;
    struct record as_it_was;

    SOMETIMES_IF(!move_valid(move),
                 "checkpoint: a record is committed or dropped before it is moved");
    if (!move_valid(move))
        return false; /* committed or dropped meanwhile: then it is not in the way */
    move->watermark = move->stream->watermark;
    as_it_was = pending_record(pending, move->watermark);
    store_encode_record(&as_it_was, LOG_MOVED, record);
    assert(record->head.bytes == item->header_bytes);
    for (uint32_t i = 0; i < item->data_blocks; i++)
        record->sums[i] = overlay_sum(store->overlay, pending->ring_block + i);
    return true;
}

static void move_done(struct log_item *item, int result)
{
    struct move *move = container_of(item, struct move, control.item);
    struct store *store = move->control.store;
    struct record_place place = {item->batch_position, item->data_position};

    if (result == 0 && log_position_compare(move->watermark, move->stream->durable_watermark) > 0)
        move->stream->durable_watermark = move->watermark;
    if (result == 0 && is_same_record(move))
        store_relocate(store, move->pending, &place);
    /* withdrawn is fine: only an error of the log itself counts */
    control_done(&move->control, log_error(store->log) != 0 ? result : 0);
}

static int co_move_record(struct checkpoint *work, struct pending *pending)
{
    static const struct log_item_ops ops = {.encode = move_encode, .done = move_done};
    struct store *store = work->store;
    struct control_wait wait = {0};
    struct move move;
    uint32_t blocks = pending->kind == RECORD_WRITE ? pending->count : 0;
    int r;

    control_init(&move.control, store, &wait, &ops,
                 sizeof(struct log_data_record) + blocks * sizeof(uint64_t));
    move.pending = pending;
    move.position = pending->position;
    move.stream = pending->stream;
    move.control.item.data = work->window;
    move.control.item.data_blocks = blocks;
    move.control.item.owed_blocks =
        store_record_owes(store, pending->kind, pending->block, pending->count);
    if (blocks > 0) {
        r = co_io_read(store->log_region.file, work->window, (size_t)blocks * BLOCK_SIZE,
                       log_block_offset(store->log, pending->ring_block));
        log_note_device(store->log, r);
        if (r < 0)
            return r;
    }
    control_append(&move.control);
    return co_control_wait(&wait);
}

static struct pending *next_in_region(const struct checkpoint *work)
{
    struct stream *stream, *next;

    HASH_ITER(hh, work->store->streams.table, stream, next)
    {
        list_for_each (node, &stream->pending) {
            struct pending *pending = list_entry(node, struct pending, node);

            if (in_region(work, pending) && !is_being_dropped(work->store, pending))
                return pending;
        }
    }
    return NULL;
}

int co_checkpoint_move(struct checkpoint *work)
{
    struct pending *pending;

    while ((pending = next_in_region(work)) != NULL) {
        int r = co_move_record(work, pending);

        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- 2: streams ---- */

int co_checkpoint_streams(struct checkpoint *work)
{
    struct store *store = work->store;
    size_t count = HASH_COUNT(store->streams.table), i = 0;
    cleanup(freep) struct stream_control *controls = calloc(MAX(count, 1), sizeof(*controls));
    struct control_wait wait = {0};
    struct stream *stream, *next;

    if (!controls)
        return -ENOMEM;
    HASH_ITER(hh, store->streams.table, stream, next)
    stream_control_append(store, stream, &controls[i++], &wait);
    return co_control_wait(&wait);
}
