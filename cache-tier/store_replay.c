/* The state of a store again, from its log: images first, then records.
 *
 * A checkpoint that was interrupted may have left pages torn or half of them new; their images are
 * in the log, behind what the last finished checkpoint said is in place. They are put there again
 * before anything else is read. Then every record since the tail is applied as it was when it
 * became durable. Records of an extent's earlier life are passed over by store_apply(): the table
 * may be ahead of them. */
#include "cache-tier/log_replay.h"
#include "cache-tier/store_internal.h"
#include "cache-tier/transfer.h"
#include "s2d/base/checksum.h"

/* ---- images ---- */

struct image {
    uint64_t target; /* block of the disk */
    uint64_t sequence;
    uint64_t position; /* in the log */
};

struct images {
    struct image *array;
    size_t count, size;
    bool no_memory;
};

static void note_image(void *arg, const struct log_record *record, const struct log_place *place)
{
    const struct log_image_record *image = (const struct log_image_record *)record;
    struct images *images = arg;

    if (record->kind != LOG_IMAGE)
        return;
    if (images->count == images->size) {
        size_t size = MAX(images->size * 2, 1024);
        struct image *array = realloc(images->array, size * sizeof(*array));

        if (!array) {
            images->no_memory = true;
            return;
        }
        images->array = array;
        images->size = size;
    }
    images->array[images->count++] = (struct image){
        .target = image->target, .sequence = place->sequence, .position = place->data_position};
}

static void ignore_batch(void *arg, uint64_t position, uint32_t blocks)
{
    (void)arg;
    (void)position;
    (void)blocks;
}

static int compare_images(const void *a, const void *b)
{
    const struct image *x = a, *y = b;

    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

/* Only table blocks and pages are ever imaged. */
static bool target_sane(const struct disk_geometry *geometry, uint64_t target)
{
    return target >= geometry->table_offset / BLOCK_SIZE &&
           target < geometry->log_offset / BLOCK_SIZE;
}

#define IMAGE_PIECE 256

static int co_place_piece(struct store *store, const struct image *images, size_t count,
                          uint8_t *buffer)
{
    const struct log_region *region = &store->log_region;
    uint64_t ring = log_region_blocks(region);
    uint64_t first = region->offset + LOG_ANCHOR_BLOCKS * BLOCK_SIZE;
    cleanup(freep) struct transfer *transfers = calloc(count, sizeof(*transfers));
    cleanup(freep) struct iovec *iov = calloc(count, sizeof(*iov));
    int r;

    if (!transfers || !iov)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        iov[i] = (struct iovec){buffer + i * BLOCK_SIZE, BLOCK_SIZE};
        transfers[i] = (struct transfer){.iov = &iov[i],
                                         .iov_count = 1,
                                         .offset = first + images[i].position % ring * BLOCK_SIZE};
    }
    r = co_transfer(region->file, TRANSFER_READ, transfers, count, TRANSFER_DEPTH_MAX);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        transfers[i].offset = images[i].target * BLOCK_SIZE;
    return co_transfer(disk_file(store->disk), TRANSFER_WRITE, transfers, count,
                       TRANSFER_DEPTH_MAX);
}

/* Puts the newest image of each target in its place. */
static int co_place_images(struct store *store, struct images *images, uint64_t images_done)
{
    cleanup(freep) uint8_t *buffer = aligned_alloc(BLOCK_SIZE, IMAGE_PIECE * BLOCK_SIZE);
    size_t kept = 0;

    if (!buffer)
        return -ENOMEM;
    if (images->count > 0)
        qsort(images->array, images->count, sizeof(*images->array), compare_images);
    for (size_t i = 0; i < images->count; i++) {
        const struct image *image = &images->array[i];
        bool last = i + 1 == images->count || images->array[i + 1].target != image->target;

        if (last && image->sequence > images_done && target_sane(&store->geometry, image->target))
            images->array[kept++] = *image;
    }
    for (size_t i = 0; i < kept; i += IMAGE_PIECE) {
        int r = co_place_piece(store, &images->array[i], MIN(IMAGE_PIECE, kept - i), buffer);

        if (r < 0)
            return r;
    }
    SOMETIMES_IF(kept > 0, "replay: images of an unfinished checkpoint are put in place");
    return kept > 0 ? co_io_sync(disk_file(store->disk)) : 0;
}

static int co_replay_images(struct store *store)
{
    static const struct log_replay_ops ops = {.record = note_image, .batch = ignore_batch};
    struct images images = {0};
    struct log_found found;
    int r = co_log_replay_recent(&store->log_region, &ops, &images, &found);

    if (r == 0 && images.no_memory)
        r = -ENOMEM;
    if (r == 0)
        r = co_place_images(store, &images, found.start.images_done);
    free(images.array);
    return r;
}

/* ---- records ---- */

struct deferred_compare { /* a bitmap whose data is read when the log has been walked */
    bool present;
    bool row_was_lost; /* in place: a record that was replayed adopted it */
    uint64_t generation;
    uint64_t position;
    uint64_t hash;
};

struct replay {
    struct store *store;
    struct deferred_compare *compares; /* by extent */
    bool no_memory;
};

static void replay_batch(void *arg, uint64_t position, uint32_t blocks)
{
    struct replay *replay = arg;

    log_note_batch(replay->store->log, position, blocks);
}

static void record_decode(const struct log_data_record *from, struct record *to)
{
    *to = (struct record){
        .vdisk = from->vdisk,
        .where = {.extent = from->extent, .generation = from->generation},
        .slab = from->slab,
        .column = from->head.column,
        .lane = from->head.lane,
        .kind = from->head.kind == LOG_WRITE ? RECORD_WRITE : RECORD_ZERO,
        .flags = from->head.flags & ~LOG_MOVED,
        .block = from->block,
        .count = from->count,
        .address = from->address,
        .epoch = from->epoch,
        .position = {from->session, from->seq},
        .watermark = {from->watermark_session, from->watermark_seq},
        .client_session = from->client_session,
        .client_number = from->client_number,
    };
}

static void enter_session(struct stream *stream, uint64_t session)
{
    if (session <= stream->session)
        return;
    stream->session = session;
    stream->accepted_seq = stream->placed_seq = stream->durable_seq = 0;
}

static void replay_data(struct replay *replay, const struct log_data_record *from,
                        const struct log_place *place)
{
    struct store *store = replay->store;
    struct stream *stream = stream_find_or_add(&store->streams, from->vdisk);
    struct record_place where = {place->batch_position, place->data_position};
    bool moved = from->head.flags & LOG_MOVED;
    struct pending *pending;
    struct record record;
    int place_check;

    record_decode(from, &record);
    if (!stream) {
        replay->no_memory = true;
        return;
    }
    if (record.where.extent >= store->geometry.extent_count ||
        record.block >= store->geometry.extent_blocks || record.count == 0 ||
        record.count > store->geometry.extent_blocks - record.block)
        return; /* no such place: not written by us */
    log_note_owed(store->log, place->batch_position,
                  store_record_owes(store, record.kind, record.block, record.count));
    stream->sealed_epoch = MAX(stream->sealed_epoch, record.epoch);
    enter_session(stream, record.position.session);
    place_check = store_check_extent(store, record.vdisk, record.where);
    if (place_check == 1) {
        if (extent_table_row(store->table, record.where.extent)->flags & EXTENT_LOST)
            replay->compares[record.where.extent].row_was_lost = true;
        store_own_extent(store, record.where, record.vdisk, record.slab,
                         record.column ^ PLANTED(TABLE_COLUMN_WRONG));
    }
    store_learn_watermark(store, stream, record.watermark, record.epoch);
    if (place_check == -EINVAL)
        return; /* another vdisk's extent: not written by us */

    pending = moved ? stream_find_pending(stream, record.position) : NULL;
    SOMETIMES_IF(moved && pending, "replay: a moved record is where its original was replayed");
    SOMETIMES_IF(moved && !pending, "replay: a moved record whose original is gone");
    if (!pending)
        store_apply(store, stream, &record, from->sums, &where, moved);
    else if (pending->kind == record.kind && pending->count == record.count)
        store_relocate(store, pending, &where);
}

static void replay_stream(struct replay *replay, const struct log_stream_record *record)
{
    struct store *store = replay->store;
    struct stream *stream = stream_find_or_add(&store->streams, record->vdisk);
    struct log_position watermark = {record->watermark_session, record->watermark_seq};

    if (!stream) {
        replay->no_memory = true;
        return;
    }
    stream->sealed_epoch = MAX(stream->sealed_epoch, record->sealed_epoch);
    enter_session(stream, record->session);
    if (record->session == stream->session)
        stream->durable_seq = MAX(stream->durable_seq, record->seq);
    store_learn_watermark(store, stream, watermark, record->sealed_epoch);
}

static void replay_drop(struct replay *replay, const struct log_drop_record *record)
{
    struct store *store = replay->store;
    struct stream *stream = stream_find(&store->streams, record->vdisk);
    struct log_position watermark = {record->watermark_session, record->watermark_seq};

    if (!stream || record->extent >= store->geometry.extent_count ||
        extent_table_row(store->table, record->extent)->generation != record->generation)
        return;
    store_apply_drop(store, stream, record->extent, watermark);
}

static void replay_extent(struct replay *replay, const struct log_extent_record *record,
                          const struct log_place *place)
{
    struct store *store = replay->store;
    struct extent_ref where = {record->extent, record->generation};
    const struct extent_row *row;

    if (record->extent >= store->geometry.extent_count)
        return;
    row = extent_table_row(store->table, record->extent);
    if (record->head.kind == LOG_FREE) {
        if (!(row->flags & EXTENT_LOST) && row->generation > record->generation)
            return;
        store_free_row(store, where);
    } else if (record->head.kind == LOG_CLEAR) {
        /* It was said before the row was lost: nothing has been compared since. */
        if (row->flags & EXTENT_ADOPTED && replay->compares[record->extent].row_was_lost &&
            !record->of_adopted)
            return;
        store_apply_clear(store, where);
        replay->compares[record->extent].present = false;
    } else if (record->head.kind == LOG_COMPARE) {
        struct deferred_compare *compare = &replay->compares[record->extent];

        /* each holds all of the ones before it, since the last clear */
        compare->present = true;
        compare->generation = record->generation;
        compare->position = place->data_position;
        compare->hash = record->hash;
    } else if (row->generation == record->generation && row->flags & EXTENT_USED) {
        extent_table_change(store->table, record->extent)->flags |= EXTENT_DAMAGED;
    }
}

static void replay_record(void *arg, const struct log_record *record, const struct log_place *place)
{
    struct replay *replay = arg;

    replay->store->passing_copies = place->batch_position < place->copies_done;
    switch ((enum log_kind)record->kind) {
    case LOG_WRITE:
    case LOG_ZERO:
        replay_data(replay, (const struct log_data_record *)record, place);
        break;
    case LOG_STREAM:
        replay_stream(replay, (const struct log_stream_record *)record);
        break;
    case LOG_IMAGE:
        break;
    case LOG_DROP:
        replay_drop(replay, (const struct log_drop_record *)record);
        break;
    case LOG_FREE:
    case LOG_COMPARE:
    case LOG_CLEAR:
    case LOG_DAMAGED:
        replay_extent(replay, (const struct log_extent_record *)record, place);
        break;
    }
}

static int co_read_compares(struct replay *replay)
{
    struct store *store = replay->store;
    size_t bytes = store_bitmap_bytes(store), blocks = DIV_ROUND_UP(bytes, BLOCK_SIZE);
    cleanup(freep) uint64_t *data = aligned_alloc(BLOCK_SIZE, blocks * BLOCK_SIZE);

    if (!data)
        return -ENOMEM;
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        const struct deferred_compare *compare = &replay->compares[i];
        const struct extent_row *row = extent_table_row(store->table, i);
        uint64_t *bitmap;
        int r;

        if (!compare->present || row->generation != compare->generation ||
            !(row->flags & EXTENT_USED)) /* free since: nobody would ever clear it */
            continue;
        r = co_io_read(store->log_region.file, data, blocks * BLOCK_SIZE,
                       log_block_offset(store->log, log_block_of(store->log, compare->position)));
        if (r == -ECANCELED)
            return r;
        if (r == 0 && hash64(data, blocks * BLOCK_SIZE) != compare->hash &&
            !PLANTED(LIST_NOT_VERIFIED))
            r = -EBADMSG;
        SOMETIMES_IF(r == -EBADMSG, "replay: a compare list is rotten");
        if (r < 0) /* the list is gone: compare everything */
            memset(data, 0xff, bytes);
        r = store_compare_bitmap(store, i, &bitmap);
        if (r < 0)
            return r;
        for (size_t word = 0; word < bytes / sizeof(uint64_t); word++)
            bitmap[word] |= data[word];
    }
    return 0;
}

/* ---- damage ---- */

/* What lay behind the hole is lost for good once we write there: say so first. Rows that began
 * there and fences that were raised there are lost as well; who knows the database puts them right
 * (co_store_settle_loss()). */
static int co_record_damage(struct store *store)
{
    struct control_wait wait = {0};
    int r = PLANTED(HOLE_ROWS_FORGOTTEN) ? 0 : co_disk_set_log_lost(store->disk, true);

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        if (extent_table_row(store->table, i)->flags & EXTENT_USED)
            extent_table_change(store->table, i)->flags |= EXTENT_DAMAGED;
    }
    return co_store_log_damage(store, &wait);
}

static void look_for_damage(struct store *store)
{
    store->health.log_damaged |= disk_log_lost(store->disk) && !PLANTED(CACHE_LOSS_NOT_DAMAGED);
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        uint16_t flags = extent_table_row(store->table, i)->flags;

        store->health.lost_extents += (flags & (EXTENT_LOST | EXTENT_ADOPTED)) != 0;
        store->health.log_damaged |= (flags & (EXTENT_LOST | EXTENT_DAMAGED)) != 0;
    }
}

/* ---- all of it ---- */

static void settle_streams(struct store *store)
{
    struct stream *stream, *next;

    HASH_ITER(hh, store->streams.table, stream, next)
    {
        SOMETIMES_IF(!list_empty(&stream->pending), "replay: a log tail with uncommitted records");
        while (PLANTED(TAIL_FORGOTTEN) && !list_empty(&stream->pending))
            store_drop_pending(store, list_first(&stream->pending, struct pending, node));
        stream->accepted_seq = stream->placed_seq = stream->durable_seq;
        stream->durable_epoch = stream->sealed_epoch;
        stream->durable_watermark = stream->watermark;
    }
}

static int co_replay_records(struct store *store, struct replay *replay)
{
    static const struct log_replay_ops ops = {.record = replay_record, .batch = replay_batch};
    struct log_start nowhere = {.tail_sequence = 1, .head_sequence = 1};
    struct log_found found;
    int r;

    /* store_apply() wants a log to ask where blocks are: one that has no place yet */
    r = log_new(&store->log_region, &nowhere, &store->log);
    if (r < 0)
        return r;
    r = co_log_replay(&store->log_region, &ops, replay, &found);
    if (r < 0)
        return r;
    if (replay->no_memory)
        return -ENOMEM;
    store->passing_copies = false;
    log_set_start(store->log, &found.start);
    settle_streams(store);
    store->health.replayed_records = found.records;
    store->health.torn_tail = found.torn;
    r = co_store_note_anchors(store);
    if (r == 0)
        r = co_read_compares(replay);
    if (r == 0 && found.damaged)
        r = co_record_damage(store);
    return r;
}

int co_store_replay(struct store *store)
{
    struct replay replay = {.store = store};
    int r;

    r = co_replay_images(store);
    if (r < 0)
        return r;
    r = co_extent_table_load(store->disk, &store->table);
    if (r < 0)
        return r;
    replay.compares = calloc(store->geometry.extent_count, sizeof(*replay.compares));
    if (!replay.compares)
        return -ENOMEM;
    r = co_replay_records(store, &replay);
    free(replay.compares);
    if (r == 0)
        look_for_damage(store);
    return r;
}
