/* Another log for a store: moving over to it, and what the loss of one means.
 *
 * Moving. What a log holds is of three kinds: committed records, uncommitted ones, and what is said
 * of streams and extents (fences, watermarks, compare lists). Appends are held until none is under
 * way and watermarks have covered all that there are; an owner that is alive sees to that within
 * moments. A checkpoint puts everything in its place, and what is left is in RAM: it is said again
 * in the new log. Then the superblock names the new log, in one write, and at no other instant
 * is any of the two the log: before, the old one has everything, for nothing was taken since;
 * after, the new one has. Appends that waited go on in the new one. Rejected: copying the ring. It
 * needs no watermark, but the copy would have to be rewritten batch by batch (positions, names,
 * checksums), and a ring of another size could not be.
 *
 * Losing. What is gone with a log: records (so blocks in place may be old), rows of the extent
 * table since the last checkpoint (so an extent may have begun another life unseen), and seals. The
 * database knows every column and epoch: co_store_settle_loss() makes rows of its columns, all of
 * them damaged, and raises the fences to its epochs, which are at least as high as any that was
 * lost. An extent that it does not know is free since now. */
#include "cache-tier/checkpoint_internal.h"

/* ---- the gate ---- */

struct store *co_store_gate(struct store *store)
{
    while (store->moving)
        co_cond_wait_always(&store->gate);
    store->gate_users++;
    return store;
}

void store_gate_leave(struct store **store)
{
    assert((*store)->gate_users > 0);
    if (--(*store)->gate_users == 0)
        co_cond_broadcast(&(*store)->gate);
}

static void gate_close(struct store *store)
{
    assert(!store->moving);
    store->moving = true;
    while (store->gate_users > 0)
        co_cond_wait_always(&store->gate);
}

static void gate_open(struct store *store)
{
    store->moving = false;
    co_cond_broadcast(&store->gate);
}

/* ---- moving over ---- */

#define SETTLE_NS (250 * MS) /* how long appends are held for watermarks */
#define SETTLE_POLL_NS (500 * US)

static bool is_settled(const struct store *store)
{
    struct stream *stream, *next;

    if (!log_quiet(store->log))
        return false;
    HASH_ITER(hh, store->streams.table, stream, next)
    {
        if (stream->pending_count > 0 && !PLANTED(REBIND_BEFORE_DESTAGE))
            return false;
    }
    return true;
}

/* Nothing is under way and nothing uncommitted. Returns 0, -EAGAIN, the log's error, -ECANCELED. */
static int co_settle(struct store *store)
{
    uint64_t deadline_ns = io_now_ns(store->io) + SETTLE_NS;

    while (!is_settled(store)) {
        int r = log_error(store->log);

        if (r == 0)
            r = io_now_ns(store->io) >= deadline_ns ? -EAGAIN : co_sleep_ns(SETTLE_POLL_NS);
        if (r < 0)
            return r;
    }
    return log_error(store->log);
}

/* Everything is in its place, and the log holds nothing that RAM does not. */
static int co_empty_log(struct store *store)
{
    int r = co_store_checkpoint(store);

    while (r == 0 && !log_quiet(store->log))
        r = co_sleep_ns(SETTLE_POLL_NS);
    if (r < 0)
        return r;
    return overlay_count(store->overlay) > 0 || !list_empty(&store->copies) ? -EAGAIN : 0;
}

static struct log_region region_at(struct disk *disk, struct disk *device,
                                   const struct disk_log *to)
{
    struct log_region region = {.io = disk_io(disk),
                                .file = disk_file(device ? device : disk),
                                .offset = to->offset,
                                .bytes = to->bytes,
                                .begun = true};

    memcpy(region.uuid, to->uuid.bytes, sizeof(region.uuid));
    return region;
}

/* Says in the new log what RAM knows. */
static int co_tell_new_log(struct store *store)
{
    struct checkpoint *work = store->checkpoint.work;
    int r = PLANTED(REBIND_STREAMS_FORGOTTEN) ? 0 : co_checkpoint_streams(work);

    if (r == 0)
        r = co_checkpoint_compares(work);
    return r == 0 ? co_log_close_batch(store->new_log) : r;
}

/* What a log was told that is not to be the store's is durable no more. */
static void doubt_streams(struct store *store)
{
    struct stream *stream, *next;

    HASH_ITER(hh, store->streams.table, stream, next)
    {
        stream->durable_epoch = 0;
        stream->durable_watermark = (struct log_position){0};
    }
}

/* With the gate closed, no checkpoint running and the old log empty. */
static int co_switch(struct store *store, const struct log_region *region,
                     const struct disk_log *to)
{
    struct log_start start = {
        .tail_sequence = 1, .head_sequence = 1, .anchor_generation = 1, .incarnation = 1};
    cleanup(overlay_freep) struct overlay *overlay = NULL;
    cleanup(log_freep) struct log *other = NULL; /* whichever is not the store's */
    struct log *old = store->log;
    int r = co_log_format(region);

    if (r == 0)
        r = store_new_overlay(store, region, &overlay);
    if (r == 0)
        r = log_new(region, &start, &other);
    if (r < 0)
        return r;
    store->new_log = other; /* for what we say; records stay with the old one until it is over */
    if (PLANTED(REBIND_RECORDS_EARLY))
        store->log = other;
    r = co_tell_new_log(store);
    store->log = old;
    store->new_log = NULL;
    if (r < 0) {
        doubt_streams(store);
        return r;
    }
    r = co_disk_set_log(store->disk, to, false);
    if (r < 0) {
        store_report(store, r); /* which of the two it is now, nobody knows before the next open */
        store_fail(store, r);
        return r == -ECANCELED ? r : -EIO;
    }
    store->log = take_ptr(other);
    other = old;
    overlay_free(store->overlay);
    store->overlay = take_ptr(overlay);
    store->log_region = *region;
    store_watch_log(store);
    log_hand_over(old, store->log);
    return 0;
}

static int co_move_settled(struct store *store, struct disk *device, const struct disk_log *to)
{
    struct log_region region = region_at(store->disk, device, to);
    int r = PLANTED(REBIND_BEFORE_DESTAGE) ? 0 : co_empty_log(store);

    if (r < 0)
        return r;
    co_mutex_lock(&store->checkpoint.running);
    r = log_error(store->log);
    if (r == 0 && store->closing)
        r = -ECANCELED;
    if (r == 0)
        r = co_switch(store, &region, to);
    co_mutex_unlock(&store->checkpoint.running);
    return r;
}

int co_store_move_log(struct store *store, struct disk *device, const struct disk_log *to)
{
    int r;

    log_hold(store->log, true);
    r = co_settle(store);
    if (r == 0) {
        gate_close(store);
        r = co_settle(store);
        if (r == 0)
            r = co_move_settled(store, device, to);
        gate_open(store);
    }
    SOMETIMES_IF(r == -EAGAIN, "store: a log does not move while records are uncommitted");
    SOMETIMES_IF(r == 0, "store: a log moves over");
    log_hold(store->log, false);
    checkpoint_poke(store);
    return r;
}

int co_store_note_anchors(struct store *store)
{
    if (!log_is_elsewhere(store))
        return 0;
    return co_disk_note_anchors(store->disk, log_anchor_generation(store->log));
}

bool store_log_device_failed(const struct store *store)
{
    return log_is_elsewhere(store) && log_device_failed(store->log);
}

/* ---- a log that was lost ---- */

int co_store_begin_log(struct disk *disk, struct disk *device, const struct disk_log *to)
{
    struct log_region region = region_at(disk, device, to);
    int r = co_log_format(&region);

    return r < 0 ? r : co_disk_set_log(disk, to, !PLANTED(CACHE_LOSS_NOT_DAMAGED));
}

struct damage {
    struct control control;
    struct extent_ref where;
};

static bool damage_encode(struct log_item *item, void *to)
{
    struct damage *damage = container_of(item, struct damage, control.item);
    struct log_extent_record *record = to;

    record->head.kind = LOG_DAMAGED;
    record->head.bytes = sizeof(*record);
    record->extent = damage->where.extent;
    record->generation = damage->where.generation;
    return true;
}

static void damage_done(struct log_item *item, int result)
{
    control_done(container_of(item, struct control, item), result);
}

int co_store_log_damage(struct store *store, struct control_wait *wait)
{
    static const struct log_item_ops ops = {.encode = damage_encode, .done = damage_done};
    uint32_t extents = store->geometry.extent_count;
    cleanup(freep) struct damage *damages = calloc(extents, sizeof(*damages));
    int r;

    if (!damages) {
        r = co_control_wait(wait);
        return r < 0 ? r : -ENOMEM;
    }
    for (uint32_t i = 0; i < extents; i++) {
        const struct extent_row *row = extent_table_row(store->table, i);

        if (!(row->flags & EXTENT_DAMAGED))
            continue;
        control_init(&damages[i].control, store, wait, &ops, sizeof(struct log_extent_record));
        damages[i].where = (struct extent_ref){i, row->generation};
        control_append(&damages[i].control);
    }
    return co_control_wait(wait);
}

/* The row as the database has it; its blocks are to be compared, whatever is here. What a log with
 * a hole still has of an earlier life goes with that life, here and where a row is freed. */
static void settle_column(struct store *store, const struct store_extent *column)
{
    const struct extent_row *row = extent_table_row(store->table, column->where.extent);
    bool known = row->flags & EXTENT_USED && !(row->flags & EXTENT_LOST) &&
                 row->generation == column->where.generation && row->vdisk == column->vdisk;

    SOMETIMES_IF(!known, "store: an extent began its life in a log that was lost");
    if (!known && PLANTED(CACHE_LOSS_ROWS_KEPT))
        return;
    if (!known) {
        store_forget_extent(store, column->where.extent);
        extent_table_init_row(store->table, column->where.extent, column->where.generation,
                              column->vdisk, column->slab, column->column);
    }
    extent_table_change(store->table, column->where.extent)->flags |= EXTENT_DAMAGED;
}

static void settle_rows(struct store *store, uint64_t index, const struct store_extent **columns)
{
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        if (columns[i])
            settle_column(store, columns[i]);
        else if (extent_table_row(store->table, i)->generation <= index)
            store_free_row(store, (struct extent_ref){i, index});
    }
}

static int raise_seals(struct store *store, const struct store_fence *fences, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct stream *stream = stream_find_or_add(&store->streams, fences[i].vdisk);

        if (!stream)
            return -ENOMEM;
        stream->sealed_epoch = MAX(stream->sealed_epoch, fences[i].epoch);
        stream->intact_since = fences[i].intact_since;
    }
    return 0;
}

static int co_settle_log(struct store *store, const struct store_fence *fences, size_t fence_count)
{
    cleanup(freep) struct stream_control *seals = calloc(MAX(fence_count, 1), sizeof(*seals));
    struct control_wait wait = {0};
    int r = PLANTED(CACHE_LOSS_NOT_FENCED) ? 0 : raise_seals(store, fences, fence_count);

    if (r < 0 || !seals)
        return -ENOMEM;
    for (size_t i = 0; i < fence_count && !PLANTED(CACHE_LOSS_NOT_FENCED); i++)
        stream_control_append(store, stream_find(&store->streams, fences[i].vdisk), &seals[i],
                              &wait);
    return co_store_log_damage(store, &wait);
}

/* The rows have to get to their place, though nothing may be left to destage: before a hole a log
 * may hold little but uncommitted records, and who would commit them waits for us. */
static int co_put_rows(struct store *store)
{
    int r = co_log_close_batch(store->log); /* something for the checkpoint, in any case */

    if (r < 0)
        return r;
    store->checkpoint.at_any_price = true;
    r = co_store_checkpoint(store);
    store->checkpoint.at_any_price = false;
    if (r < 0)
        return r;
    return extent_table_dirty_blocks(store->table) > 0 ? -EIO : 0; /* told by then */
}

int co_store_settle_loss(struct store *store, uint64_t index, const struct store_extent *columns,
                         size_t column_count, const struct store_fence *fences, size_t fence_count)
{
    cleanup(freep) const struct store_extent **by_extent =
        calloc(store->geometry.extent_count, sizeof(*by_extent));
    int r;

    if (!by_extent)
        return -ENOMEM;
    for (size_t i = 0; i < column_count; i++)
        if (columns[i].where.extent < store->geometry.extent_count)
            by_extent[columns[i].where.extent] = &columns[i];
    if (!PLANTED(CACHE_LOSS_NOT_DAMAGED))
        settle_rows(store, index, by_extent);
    r = co_settle_log(store, fences, fence_count);
    if (r == 0)
        r = co_put_rows(store);
    if (r < 0)
        return r;
    return co_disk_set_log_lost(store->disk, false);
}

void store_withhold(struct store *store, struct extent_ref where)
{
    if (where.extent < store->geometry.extent_count &&
        extent_table_row(store->table, where.extent)->generation == where.generation)
        store->extents[where.extent].withheld = true;
}
