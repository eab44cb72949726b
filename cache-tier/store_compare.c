/* Columns that return (I8 and "Resync" in docs/protocol.md). A column that Raft holds for stale
 * drops what it has above the watermark when the present owner says so; the blocks go on its
 * compare list. The drop happens when its record is durable, at that record's place in the order of
 * the log, so that a replay does exactly the same. The list is kept by the log alone: the dropped
 * records and the drop until the tail passes them, and a copy of the bitmap that each checkpoint
 * writes. */
#include "cache-tier/store_internal.h"

/* ---- dropping ---- */

struct drop {
    struct control control;
    struct stream *stream;
    struct extent_ref where;
    struct log_position watermark;
    bool placed;
};

static bool is_dropped(const struct pending *pending, uint32_t extent,
                       struct log_position watermark)
{
    return pending->where.extent == extent &&
           log_position_compare(pending->position, watermark) > 0;
}

static bool drop_encode(struct log_item *item, void *to)
{
    struct drop *drop = container_of(item, struct drop, control.item);
    struct log_drop_record *record = to;

    drop->watermark = drop->stream->watermark;
    drop->placed = true;
    drop->control.store->extents[drop->where.extent].drops++;
    record->head.kind = LOG_DROP;
    record->head.bytes = sizeof(*record);
    record->vdisk = drop->stream->vdisk;
    record->extent = drop->where.extent;
    record->generation = drop->where.generation;
    record->watermark_session = drop->watermark.session;
    record->watermark_seq = drop->watermark.seq;
    record->sealed_epoch = drop->stream->sealed_epoch;
    return true;
}

int store_compare_bitmap(struct store *store, uint32_t extent, uint64_t **ret_bitmap)
{
    struct extent_state *state = &store->extents[extent];

    if (!state->compare)
        state->compare = calloc(1, store_bitmap_bytes(store));
    if (!state->compare)
        return -ENOMEM;
    *ret_bitmap = state->compare;
    return 0;
}

void store_apply_drop(struct store *store, struct stream *stream, uint32_t extent,
                      struct log_position watermark)
{
    uint64_t *bitmap = NULL;

    list_for_each_safe (node, &stream->pending) {
        struct pending *pending = list_entry(node, struct pending, node);

        if (!is_dropped(pending, extent, watermark))
            continue;
        /* not before: a disk that comes back drops the tails of all its columns, and each list is
         * written at every checkpoint */
        if (!bitmap && store_compare_bitmap(store, extent, &bitmap) < 0) {
            store_fail(store, -ENOMEM);
            return;
        }
        for (uint32_t i = 0; i < pending->count && !PLANTED(DROP_UNLISTED); i++)
            bitmap[(pending->block + i) / 64] |= 1ull << ((pending->block + i) % 64);
        SOMETIMES("store: a stale column drops an uncommitted record");
        store_drop_pending(store, pending);
    }
}

static void drop_done(struct log_item *item, int result)
{
    struct drop *drop = container_of(item, struct drop, control.item);
    struct store *store = drop->control.store;

    if (drop->placed)
        store->extents[drop->where.extent].drops--;
    if (result == 0 &&
        extent_table_row(store->table, drop->where.extent)->generation == drop->where.generation)
        store_apply_drop(store, drop->stream, drop->where.extent, drop->watermark);
    control_done(&drop->control, result);
}

/* Shows the store an epoch. Returns 0, -ESTALE. */
static int show_epoch(struct store *store, uint64_t vdisk, uint64_t epoch,
                      struct stream **ret_stream)
{
    struct stream *stream = stream_find(&store->streams, vdisk);

    if (!stream || (epoch < stream->sealed_epoch && !PLANTED(SEAL_RECORDS_ONLY))) {
        SOMETIMES_IF(stream, "store: a tail drop of a lower epoch is refused");
        return -ESTALE;
    }
    INVARIANT(I4, epoch >= stream->sealed_epoch);
    stream->sealed_epoch = MAX(stream->sealed_epoch, epoch);
    *ret_stream = stream;
    return 0;
}

int co_store_drop_tail(struct store *store, uint64_t vdisk, uint64_t epoch,
                       const struct extent_ref *columns, size_t count)
{
    static const struct log_item_ops ops = {.encode = drop_encode, .done = drop_done};
    cleanup(freep) struct drop *drops = calloc(MAX(count, 1), sizeof(*drops));
    STORE_GATE(store);
    struct stream_control fence;
    struct control_wait wait = {0};
    struct stream *stream;
    int r = show_epoch(store, vdisk, epoch, &stream);

    if (r < 0)
        return r;
    if (!drops)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        r = store_check_extent(store, vdisk, columns[i]);
        if (r < 0)
            return r;
    }
    stream_control_append(store, stream, &fence, &wait);
    for (size_t i = 0; i < count; i++) {
        if (store_check_extent(store, vdisk, columns[i]) != 0)
            continue; /* it never got anything: nothing to drop */
        control_init(&drops[i].control, store, &wait, &ops, sizeof(struct log_drop_record));
        drops[i].stream = stream;
        drops[i].where = columns[i];
        control_append(&drops[i].control);
    }
    return co_control_wait(&wait);
}

#define GONE_AT_ONCE 16

static size_t find_gone(const struct stream *stream, store_is_gone *is_gone, void *arg,
                        struct extent_ref ret_gone[GONE_AT_ONCE])
{
    size_t count = 0;

    list_for_each (node, &stream->pending) {
        const struct pending *pending = list_entry(node, struct pending, node);
        const struct store_extent extent = {.where = pending->where,
                                            .vdisk = stream->vdisk,
                                            .slab = pending->slab,
                                            .column = pending->column};
        bool known = false;

        for (size_t i = 0; i < count; i++)
            known = known || ret_gone[i].extent == extent.where.extent;
        if (known || !is_gone(arg, &extent))
            continue;
        ret_gone[count++] = extent.where;
        if (count == GONE_AT_ONCE)
            break;
    }
    return count;
}

int co_store_drop_gone(struct store *store, store_is_gone *is_gone, void *arg)
{
    struct extent_ref gone[GONE_AT_ONCE];
    struct stream *stream, *next;

    for (;;) {
        size_t count = 0;
        int r;

        HASH_ITER(hh, store->streams.table, stream, next)
        {
            count = find_gone(stream, is_gone, arg, gone);
            if (count > 0)
                break;
        }
        if (count == 0)
            return 0;
        SOMETIMES("store: what is not committed of a column that is gone is dropped");
        r = co_store_drop_tail(store, stream->vdisk, stream->sealed_epoch, gone, count);
        if (r < 0)
            return r;
    }
}

int co_store_free_damaged(struct store *store, store_is_gone *is_gone, void *arg)
{
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        const struct extent_row *row = extent_table_row(store->table, i);
        const struct store_extent extent = {.where = {i, row->generation},
                                            .vdisk = row->vdisk,
                                            .slab = row->slab,
                                            .column = row->column};
        int r;

        if (!(row->flags & EXTENT_DAMAGED) || row->flags & EXTENT_LOST || !is_gone(arg, &extent))
            continue;
        SOMETIMES("store: a damaged extent is freed, its column is gone");
        r = co_store_free_extent(store, extent.where);
        if (r < 0 && r != -ESTALE) /* it has another life by now */
            return r;
    }
    return 0;
}

/* ---- what to compare ---- */

static void add_page(const struct store *store, uint32_t page, uint64_t *bitmap)
{
    uint32_t first = page * CHECKSUM_PAGE_ENTRIES;
    uint32_t end = MIN(first + CHECKSUM_PAGE_ENTRIES, store->geometry.extent_blocks);

    for (uint32_t i = first; i < end; i++)
        bitmap[i / 64] |= 1ull << (i % 64);
}

/* Adds the pages that were stamped since, or (since_epoch 0) the blocks whose checksums are lost.
 */
static int co_add_pages(struct store *store, struct extent_ref where, uint64_t since_epoch,
                        uint64_t *bitmap)
{
    const struct extent_row *row = extent_table_row(store->table, where.extent);

    for (uint32_t page = 0; page < store->geometry.pages_per_extent; page++) {
        struct cached_page *cached;
        int r;

        if (row->generation != where.generation)
            return -ESTALE;
        if (!extent_row_has_page(row, page)) {
            if (since_epoch != 0 && row->clear_epoch >= since_epoch)
                add_page(store, page, bitmap);
            continue;
        }
        r = co_page_get(store->pages, store_page_number(store, where.extent, page),
                        where.generation, &cached);
        if (r < 0)
            return r;
        SOMETIMES_IF(since_epoch != 0 && !cached->corrupt && cached->page->epoch < since_epoch,
                     "store: a page that did not change is not compared");
        if (since_epoch != 0 && (cached->corrupt || cached->page->epoch >= since_epoch))
            add_page(store, page, bitmap);
        for (uint32_t i = 0; since_epoch == 0 && i < CHECKSUM_PAGE_ENTRIES; i++) {
            uint32_t block = page * CHECKSUM_PAGE_ENTRIES + i;

            if (cached->page->sums[i] == CHECKSUM_LOST && block < store->geometry.extent_blocks)
                bitmap[block / 64] |= 1ull << (block % 64);
        }
        page_put(store->pages, cached);
    }
    return 0;
}

static void add_pending_zeros(const struct store *store, uint32_t extent, uint64_t *bitmap)
{
    list_for_each (node, &store->extents[extent].zeros) {
        const struct pending *zero = list_entry(node, struct pending, zero_node);

        for (uint32_t i = zero->block; i < zero->block + zero->count; i++)
            bitmap[i / 64] |= 1ull << (i % 64);
    }
}

/* Of what changed since then (0: of what is here) nothing can be told: a log with it was lost. */
static bool is_unsure(const struct store *store, uint64_t vdisk, const struct extent_row *row,
                      uint64_t since_epoch)
{
    const struct stream *stream = stream_find(&store->streams, vdisk);

    if (!(row->flags & EXTENT_DAMAGED))
        return false;
    SOMETIMES_IF(since_epoch != 0, "store: a damaged column is a source");
    if (PLANTED(DAMAGED_SOURCE_TRUSTED))
        return since_epoch == 0;
    return !stream || stream->intact_since == 0 || since_epoch < stream->intact_since;
}

int co_store_compare_set(struct store *store, uint64_t vdisk, struct extent_ref where,
                         uint64_t since_epoch, uint64_t *bitmap)
{
    uint32_t words = store_bitmap_bytes(store) / sizeof(uint64_t);
    const struct extent_row *row;
    int r = store_check_extent(store, vdisk, where);

    if (r < 0)
        return r;
    row = extent_table_row(store->table, where.extent);
    SOMETIMES_IF(r == 0 && since_epoch == 0 && store->extents[where.extent].compare,
                 "store: a compare list is asked for");
    if (r == 1 && !(row->flags & (EXTENT_LOST | EXTENT_ADOPTED)))
        return 0; /* nothing is here; the source's set names all there is */
    if (r == 1 || is_unsure(store, vdisk, row, since_epoch)) {
        memset(bitmap, 0xff, store->geometry.extent_blocks / 8);
        return 0;
    }
    /* pages first: a checkpoint that passes meanwhile moves blocks from the log to pages with new
     * stamps */
    overlay_collect(store->overlay, where.extent, bitmap);
    add_pending_zeros(store, where.extent, bitmap);
    r = co_add_pages(store, where, since_epoch, bitmap);
    if (r < 0)
        return r;
    overlay_collect(store->overlay, where.extent, bitmap);
    add_pending_zeros(store, where.extent, bitmap);
    for (uint32_t i = 0; since_epoch == 0 && store->extents[where.extent].compare && i < words; i++)
        bitmap[i] |= store->extents[where.extent].compare[i];
    return 0;
}

/* ---- in-sync again ---- */

struct clear {
    struct control control;
    struct extent_ref where;
};

static bool clear_encode(struct log_item *item, void *to)
{
    struct clear *clear = container_of(item, struct clear, control.item);
    const struct extent_row *row =
        extent_table_row(clear->control.store->table, clear->where.extent);
    struct log_extent_record *record = to;

    record->head.kind = LOG_CLEAR;
    record->head.bytes = sizeof(*record);
    record->extent = clear->where.extent;
    record->generation = clear->where.generation;
    record->of_adopted = (row->flags & EXTENT_ADOPTED) != 0;
    return true;
}

void store_apply_clear(struct store *store, struct extent_ref where)
{
    const struct extent_row *row = extent_table_row(store->table, where.extent);

    if (row->generation != where.generation)
        return;
    free(take_ptr(store->extents[where.extent].compare));
    store->extents[where.extent].withheld = false;
    if (row->flags & (EXTENT_DAMAGED | EXTENT_ADOPTED))
        extent_table_change(store->table, where.extent)->flags &=
            ~(EXTENT_DAMAGED | EXTENT_ADOPTED);
}

static void clear_done(struct log_item *item, int result)
{
    struct clear *clear = container_of(item, struct clear, control.item);

    if (result == 0)
        store_apply_clear(clear->control.store, clear->where);
    control_done(&clear->control, result);
}

int co_store_clear_compare(struct store *store, uint64_t vdisk, uint64_t epoch,
                           const struct extent_ref *columns, size_t count)
{
    static const struct log_item_ops ops = {.encode = clear_encode, .done = clear_done};
    cleanup(freep) struct clear *clears = calloc(MAX(count, 1), sizeof(*clears));
    STORE_GATE(store);
    struct stream_control fence;
    struct control_wait wait = {0};
    struct stream *stream;
    int r = show_epoch(store, vdisk, epoch, &stream);

    if (r < 0)
        return r;
    if (!clears)
        return -ENOMEM;
    stream_control_append(store, stream, &fence, &wait);
    for (size_t i = 0; i < count; i++) {
        if (store_check_extent(store, vdisk, columns[i]) != 0)
            continue;
        control_init(&clears[i].control, store, &wait, &ops, sizeof(struct log_extent_record));
        clears[i].where = columns[i];
        control_append(&clears[i].control);
    }
    return co_control_wait(&wait);
}
