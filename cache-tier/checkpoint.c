/* Moves what is committed from the log to its place, and then the log's tail:
 *
 *   1  uncommitted records in the way are copied to the log's head
 *   2  streams' states into the log: what is destaged stays committed whatever happens (I2)
 *   3  the newest committed version of each block, read back in large pieces, sorted, merged, in
 * place 4  images of every checksum page and table block that this changes, into the log, synced 5
 * the disk synced: data is there before any checksum says so 6  pages and table blocks in place;
 * the disk synced 7  overlay entries go, the log's anchors get the new tail
 *
 * Until 7 the log holds everything, so each step may be repeated after a crash: replay puts the
 * images of an unfinished checkpoint in place and applies the records again. Reads are right
 * throughout: a block that is being destaged is read from the log until 7. What is in the log's
 * head meanwhile is no concern of this: the region is fixed when it begins, and no new record can
 * appear in it. */
#include "cache-tier/store_internal.h"
#include "cache-tier/transfer.h"
#include "s2d/base/checksum.h"

#define REGION_FRACTION 16
#define WINDOW_BLOCKS 4096 /* destaged from one buffer: 16 MiB */
#define READ_PIECE_BLOCKS 256
#define READ_GAP_BLOCKS 8 /* of dead blocks that are read along rather than seeked over */
#define DESTAGE_DEPTH 24
#define MERGE_IOVS 64

struct destage { /* a block on its way */
    uint64_t key;
    uint64_t sum;
    uint32_t ring_block;
    uint32_t stamp;
};

struct checkpoint {
    struct store *store;
    uint64_t from, cut; /* the region: log positions of batch boundaries */
    uint64_t batches;
    struct destage *items; /* all of the region */
    size_t item_count, item_size;
    uint8_t *window; /* WINDOW_BLOCKS */
    struct transfer *transfers;
    struct iovec *iov;
    struct cached_page **pages; /* changed by this checkpoint, pinned; by number */
    size_t page_count, page_size;
    struct image *images;
    size_t image_count;
    uint8_t *table_blocks; /* encoded */
    uint64_t images_done, copies_done;
};

/* ---- the region ---- */

static void extend_region(struct checkpoint *work, uint64_t want_blocks)
{
    struct log *log = work->store->log;
    uint64_t start = work->cut, head = log_head(log);

    while (work->cut < head && work->cut - start < want_blocks) {
        work->cut += log_batch_blocks(log, work->cut);
        work->batches++;
    }
}

static bool in_region(const struct checkpoint *work, const struct pending *pending)
{
    return pending->batch_position < work->cut;
}

static uint64_t pending_in_region(const struct checkpoint *work)
{
    struct stream *stream, *next;
    uint64_t blocks = 0;

    HASH_ITER(hh, work->store->streams.table, stream, next)
    {
        list_for_each (node, &stream->pending) {
            const struct pending *pending = list_entry(node, struct pending, node);

            if (in_region(work, pending))
                blocks += 1 + (pending->kind == RECORD_WRITE ? pending->count : 0);
        }
    }
    return blocks;
}

/* The oldest sixteenth of the log, or more: as long as most of it is uncommitted records, which are
 * only copied, it frees too little. Returns 0, or -EAGAIN: the copies would not fit in what is kept
 * for them. */
static int choose_region(struct checkpoint *work, uint64_t want_blocks)
{
    struct log *log = work->store->log;
    uint64_t pending;

    work->from = work->cut = log_tail(log);
    work->batches = 0;
    do {
        extend_region(work, want_blocks);
        pending = pending_in_region(work);
    } while (pending > (work->cut - work->from) / 2 && pending <= want_blocks &&
             work->cut < log_head(log));
    if (work->cut == work->from || pending > want_blocks || pending > (work->cut - work->from) / 2)
        return -EAGAIN;
    return 0;
}

/* ---- 1: records in the way ---- */

struct move {
    struct control control;
    struct pending *pending;
    struct log_position position; /* tells whether pending is still the same record */
    struct log_position watermark;
    struct stream *stream;
};

static bool move_valid(const struct move *move)
{
    return move->pending->stream &&
           log_position_compare(move->pending->position, move->position) == 0 &&
           !move->pending->dropped;
}

static bool move_encode(struct log_item *item, void *to)
{
    struct move *move = container_of(item, struct move, control.item);
    struct store *store = move->control.store;
    const struct pending *pending = move->pending;
    struct log_data_record *record = to;

    if (!move_valid(move))
        return false; /* committed or dropped meanwhile: then it is not in the way */
    move->watermark = move->stream->watermark;
    record->head.kind = pending->kind == RECORD_WRITE ? LOG_WRITE : LOG_ZERO;
    record->head.column = pending->column;
    record->head.bytes = item->header_bytes;
    record->head.data_blocks = item->data_blocks;
    record->head.flags = (pending->flags & ~(uint32_t)RECORD_VERIFIED) | LOG_MOVED;
    record->vdisk = pending->stream->vdisk;
    record->extent = pending->where.extent;
    record->slab = pending->slab;
    record->generation = pending->where.generation;
    record->session = pending->position.session;
    record->seq = pending->position.seq;
    record->epoch = pending->epoch;
    record->watermark_session = move->watermark.session;
    record->watermark_seq = move->watermark.seq;
    record->client_session = pending->client_session;
    record->client_number = pending->client_number;
    record->address = pending->address;
    record->block = pending->block;
    record->count = pending->count;
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
    if (result == 0 && move->pending->stream &&
        log_position_compare(move->pending->position, move->position) == 0)
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
    if (blocks > 0) {
        r = co_io_read(disk_file(store->disk), work->window, (size_t)blocks * BLOCK_SIZE,
                       log_block_offset(store->log, pending->ring_block));
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

            if (in_region(work, pending) && !pending->dropped)
                return pending;
        }
    }
    return NULL;
}

static int co_move_records(struct checkpoint *work)
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

static int co_record_streams(struct checkpoint *work)
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

/* ---- 3: data ---- */

static int add_item(struct checkpoint *work, uint32_t at)
{
    const struct overlay *overlay = work->store->overlay;

    if (work->item_count == work->item_size) {
        size_t size = MAX(work->item_size * 2, 1024);
        struct destage *items = realloc(work->items, size * sizeof(*items));

        if (!items)
            return -ENOMEM;
        work->items = items;
        work->item_size = size;
    }
    work->items[work->item_count++] = (struct destage){
        .key = overlay_key(overlay, at),
        .sum = overlay_sum(overlay, at),
        .ring_block = at,
        .stamp = MIN(overlay_stamp(overlay, at), UINT32_MAX),
    };
    return 0;
}

/* The blocks of a committed copy that are still live; what is in the region is there already. */
static int collect_copy(struct checkpoint *work, const struct pending *copy)
{
    struct store *store = work->store;

    if (copy->kind == RECORD_ZERO || copy->batch_position < work->cut)
        return 0;
    for (uint32_t i = 0; i < copy->count; i++) {
        uint32_t at = copy->ring_block + i;
        int r = 0;

        if (overlay_in_use(store->overlay, at) && overlay_record(store->overlay, at) == 0 &&
            overlay_key(store->overlay, at) ==
                store_key(store, copy->where.extent, copy->block + i))
            r = add_item(work, at);
        if (r < 0)
            return r;
    }
    return 0;
}

static int collect_copies(struct checkpoint *work)
{
    struct store *store = work->store;

    /* all of them: those that a watermark covers which is not durable come round again at a replay,
     * and are destaged again */
    list_for_each_safe (node, &store->copies) {
        struct pending *copy = list_entry(node, struct pending, node);
        int r = collect_copy(work, copy);

        if (r < 0)
            return r;
        pending_put(&store->streams, copy);
    }
    return 0;
}

/* At this instant every version in the region is committed, by a watermark that is durable. Returns
 * 0, -EAGAIN, -ENOMEM. */
static int collect(struct checkpoint *work)
{
    struct store *store = work->store;
    uint64_t blocks = work->cut - work->from;
    int r = 0;

    work->item_count = 0;
    for (uint64_t i = 0; i < blocks && r == 0; i++) {
        uint32_t at = log_block_of(store->log, work->from + i);

        if (!overlay_in_use(store->overlay, at))
            continue;
        if (overlay_record(store->overlay, at) != 0)
            return -EAGAIN; /* its drop is on the way: come back */
        r = add_item(work, at);
    }
    if (r < 0)
        return r;
    r = collect_copies(work);
    store->checkpoint.serial++;
    work->copies_done = log_head(store->log);
    overlay_zero_begin(store->overlay, work->cut);
    return r;
}

static int compare_items(const void *a, const void *b)
{
    const struct destage *x = a, *y = b;

    return x->key < y->key ? -1 : x->key > y->key;
}

/* Reads the live blocks of items (in log order, one to each window block) with few large reads. */
static int co_read_window(struct checkpoint *work, const struct destage *items, size_t count)
{
    struct store *store = work->store;
    size_t reads = 0;

    for (size_t i = 0; i < count;) {
        size_t first = i;
        uint64_t offset = log_block_offset(store->log, items[i].ring_block);

        /* items side by side in the log are side by side in the window */
        while (i + 1 < count && items[i + 1].ring_block == items[i].ring_block + 1 &&
               i + 1 - first < READ_PIECE_BLOCKS)
            i++;
        i++;
        work->iov[reads] =
            (struct iovec){work->window + first * BLOCK_SIZE, (i - first) * BLOCK_SIZE};
        work->transfers[reads] =
            (struct transfer){.iov = &work->iov[reads], .iov_count = 1, .offset = offset};
        reads++;
    }
    return co_transfer(disk_file(store->disk), TRANSFER_READ, work->transfers, reads,
                       DESTAGE_DEPTH);
}

struct placed { /* a window block, to be sorted by where it goes */
    uint64_t key;
    uint32_t window_block;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;

    return x->key < y->key ? -1 : x->key > y->key;
}

static uint64_t key_offset(const struct store *store, uint64_t key)
{
    return store->geometry.extents_offset + key * BLOCK_SIZE;
}

static int co_write_window(struct checkpoint *work, struct placed *placed, size_t count)
{
    struct store *store = work->store;
    size_t writes = 0;

    qsort(placed, count, sizeof(*placed), compare_placed);
    for (size_t i = 0; i < count; i++) {
        struct transfer *last = writes > 0 ? &work->transfers[writes - 1] : NULL;

        work->iov[i] =
            (struct iovec){work->window + (size_t)placed[i].window_block * BLOCK_SIZE, BLOCK_SIZE};
        if (last && placed[i].key == placed[i - 1].key + 1 && last->iov_count < MERGE_IOVS)
            last->iov_count++;
        else
            work->transfers[writes++] = (struct transfer){
                .iov = &work->iov[i], .iov_count = 1, .offset = key_offset(store, placed[i].key)};
    }
    return co_transfer(disk_file(store->disk), TRANSFER_WRITE, work->transfers, writes,
                       DESTAGE_DEPTH);
}

static int co_write_data(struct checkpoint *work)
{
    cleanup(freep) struct placed *placed = malloc(WINDOW_BLOCKS * sizeof(*placed));

    if (!placed)
        return -ENOMEM;
    for (size_t done = 0; done < work->item_count;) {
        size_t count = MIN(WINDOW_BLOCKS, work->item_count - done);
        int r = co_read_window(work, &work->items[done], count);

        if (r < 0)
            return r;
        for (size_t i = 0; i < count; i++)
            placed[i] = (struct placed){work->items[done + i].key, i};
        r = co_write_window(work, placed, count);
        if (r < 0)
            return r;
        done += count;
    }
    work->store->stats.destaged_blocks += work->item_count;
    return 0;
}

/* ---- 4: pages and table ---- */

static uint32_t key_extent(const struct store *store, uint64_t key)
{
    return key >> store->extent_shift;
}

/* The extent was given away or emptied since the region was collected. */
static bool forgotten(const struct store *store, uint32_t extent)
{
    return store->extents[extent].forgotten_in == store->checkpoint.serial;
}

static int co_pin_page(struct checkpoint *work, uint32_t extent, uint32_t page,
                       struct cached_page **ret_page)
{
    struct store *store = work->store;
    uint64_t number = store_page_number(store, extent, page);
    const struct extent_row *row = extent_table_row(store->table, extent);
    struct cached_page *cached = NULL;
    int r = 0;

    if (work->page_count > 0 && work->pages[work->page_count - 1]->page->number == number) {
        *ret_page = work->pages[work->page_count - 1];
        return 0;
    }
    if (work->page_count == work->page_size) {
        size_t size = MAX(work->page_size * 2, 1024);
        struct cached_page **pages = realloc(work->pages, size * sizeof(struct cached_page *));

        if (!pages)
            return -ENOMEM;
        work->pages = pages;
        work->page_size = size;
    }
    if (extent_row_has_page(row, page)) {
        cached = page_try_get(store->pages, number, row->generation);
        if (!cached)
            r = co_page_get(store->pages, number, row->generation, &cached);
    } else {
        r = co_page_get_new(store->pages, number, row->generation, &cached);
    }
    if (r < 0)
        return r;
    work->pages[work->page_count++] = cached;
    *ret_page = cached;
    return 0;
}

static void page_is_written(struct store *store, uint32_t extent, uint32_t page)
{
    if (!extent_row_has_page(extent_table_row(store->table, extent), page))
        extent_table_change(store->table, extent)->pages[page / 64] |= 1ull << (page % 64);
}

static int co_change_pages(struct checkpoint *work)
{
    struct store *store = work->store;

    qsort(work->items, work->item_count, sizeof(*work->items), compare_items);
    for (size_t i = 0; i < work->item_count; i++) {
        const struct destage *item = &work->items[i];
        uint32_t extent = key_extent(store, item->key);
        uint32_t block = item->key & (store->geometry.extent_blocks - 1);
        uint32_t page = block / CHECKSUM_PAGE_ENTRIES;
        struct cached_page *cached;
        int r;

        if (forgotten(store, extent))
            continue;
        r = co_pin_page(work, extent, page, &cached);
        if (r < 0)
            return r;
        if (forgotten(store, extent))
            continue; /* while the page was read */
        cached->page->sums[block % CHECKSUM_PAGE_ENTRIES] = item->sum;
        cached->page->epoch = MAX(cached->page->epoch, item->stamp);
        page_mend(cached);
        page_is_written(store, extent, page);
    }
    return 0;
}

/* ---- zeros ---- */

static void zero_bits(const uint64_t *bits, uint32_t first, uint32_t end, uint32_t *ret_set)
{
    uint32_t set = 0;

    for (uint32_t i = first; i < end; i++)
        set += bits[i / 64] >> (i % 64) & 1;
    *ret_set = set;
}

static int co_zero_page(struct checkpoint *work, uint32_t extent, uint32_t page,
                        const uint64_t *bits, uint64_t stamp)
{
    struct store *store = work->store;
    const struct extent_row *row = extent_table_row(store->table, extent);
    uint32_t first = page * CHECKSUM_PAGE_ENTRIES;
    uint32_t end = MIN(first + CHECKSUM_PAGE_ENTRIES, store->geometry.extent_blocks);
    struct cached_page *cached;
    uint32_t set;
    int r;

    zero_bits(bits, first, end, &set);
    if (set == 0)
        return 0;
    if (!extent_row_has_page(row, page) || set == end - first) {
        struct extent_row *change = extent_table_change(store->table, extent);

        /* All of it is zero, and no page says so better than one. It is not among those that were
         * just changed: a block that is zero had nothing to destage when the region was collected.
         */
        change->pages[page / 64] &= ~(1ull << (page % 64));
        change->clear_epoch = MAX(change->clear_epoch, stamp);
        return 0;
    }
    r = co_pin_page(work, extent, page, &cached);
    if (r < 0 || forgotten(store, extent))
        return r;
    for (uint32_t i = first; i < end; i++)
        if (bits[i / 64] >> (i % 64) & 1)
            cached->page->sums[i - first] = 0;
    cached->page->epoch = MAX(cached->page->epoch, stamp);
    page_mend(cached);
    return 0;
}

static int co_zero_pages(struct checkpoint *work)
{
    struct store *store = work->store;
    const uint64_t *bits;
    uint64_t stamp;
    uint32_t extent;

    for (uint32_t from = 0;
         (bits = overlay_zero_next(store->overlay, from, &extent, &stamp)) != NULL;
         from = extent + 1) {
        for (uint32_t page = 0; page < store->geometry.pages_per_extent; page++) {
            int r;

            if (forgotten(store, extent))
                break;
            r = co_zero_page(work, extent, page, bits, stamp);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* ---- images ---- */

struct image {
    struct control control;
    uint64_t target; /* offset on the disk */
};

static bool image_encode(struct log_item *item, void *to)
{
    struct image *image = container_of(item, struct image, control.item);
    struct log_image_record *record = to;

    record->head.kind = LOG_IMAGE;
    record->head.bytes = sizeof(*record);
    record->head.data_blocks = 1;
    record->target = image->target / BLOCK_SIZE;
    record->hash = hash64(item->data, BLOCK_SIZE);
    return true;
}

static void image_done(struct log_item *item, int result)
{
    control_done(container_of(item, struct control, item), result);
}

static void image_append(struct checkpoint *work, struct control_wait *wait, const void *data,
                         uint64_t target)
{
    static const struct log_item_ops ops = {.encode = image_encode, .done = image_done};
    struct image *image = &work->images[work->image_count++];

    control_init(&image->control, work->store, wait, &ops, sizeof(struct log_image_record));
    image->control.item.data = data;
    image->control.item.data_blocks = 1;
    image->target = target;
    control_append(&image->control);
}

struct compare_copy {
    struct control control;
    struct extent_ref where;
};

static bool compare_encode(struct log_item *item, void *to)
{
    struct compare_copy *copy = container_of(item, struct compare_copy, control.item);
    struct log_extent_record *record = to;

    record->head.kind = LOG_COMPARE;
    record->head.bytes = sizeof(*record);
    record->head.data_blocks = item->data_blocks;
    record->extent = copy->where.extent;
    record->generation = copy->where.generation;
    record->hash = hash64(item->data, (size_t)item->data_blocks * BLOCK_SIZE);
    return true;
}

/* The compare lists live in the log alone: each checkpoint carries them on. */
static int co_record_compares(struct checkpoint *work)
{
    static const struct log_item_ops ops = {.encode = compare_encode, .done = image_done};
    struct store *store = work->store;
    uint32_t blocks = DIV_ROUND_UP(store_bitmap_bytes(store), BLOCK_SIZE);

    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        struct control_wait wait = {0};
        struct compare_copy copy;
        int r;

        if (!store->extents[i].compare)
            continue;
        memset(work->window, 0, (size_t)blocks * BLOCK_SIZE);
        memcpy(work->window, store->extents[i].compare, store_bitmap_bytes(store));
        control_init(&copy.control, store, &wait, &ops, sizeof(struct log_extent_record));
        copy.where = (struct extent_ref){i, extent_table_row(store->table, i)->generation};
        copy.control.item.data = work->window;
        copy.control.item.data_blocks = blocks;
        control_append(&copy.control);
        r = co_control_wait(&wait);
        if (r < 0)
            return r;
    }
    return 0;
}

static int compare_pages(const void *a, const void *b)
{
    const struct cached_page *const *x = a, *const *y = b;

    return (*x)->page->number < (*y)->page->number ? -1 : (*x)->page->number > (*y)->page->number;
}

/* A page may have been pinned for its data and again for its zeros. */
static void pages_unique(struct checkpoint *work)
{
    size_t kept = 0;

    if (work->page_count > 0)
        qsort(work->pages, work->page_count, sizeof(struct cached_page *), compare_pages);
    for (size_t i = 0; i < work->page_count; i++) {
        if (kept > 0 && work->pages[kept - 1] == work->pages[i])
            page_put(work->store->pages, work->pages[i]);
        else
            work->pages[kept++] = work->pages[i];
    }
    work->page_count = kept;
}

static int co_log_images(struct checkpoint *work)
{
    struct store *store = work->store;
    uint32_t table_count = extent_table_dirty_blocks(store->table), index = 0;
    struct control_wait wait = {0};
    int r;

    work->image_count = 0;
    work->images = calloc(work->page_count + table_count + 1, sizeof(*work->images));
    work->table_blocks = aligned_alloc(BLOCK_SIZE, (size_t)(table_count + 1) * BLOCK_SIZE);
    if (!work->images || !work->table_blocks)
        return -ENOMEM;
    for (size_t i = 0; i < work->page_count; i++) {
        struct checksum_page *page = work->pages[i]->page;

        page->log_sequence = log_last_sequence(store->log);
        checksum_page_finish(page);
        image_append(work, &wait, page, disk_page_offset(&store->geometry, page->number));
    }
    /* after the pages: a row must not claim a page whose image is not there */
    for (uint32_t i = 0; i < table_count; i++) {
        uint8_t *block = work->table_blocks + (size_t)i * BLOCK_SIZE;

        index = extent_table_next_dirty(store->table, index);
        extent_table_encode(store->table, index, (struct extent_table_block *)block);
        image_append(work, &wait, block,
                     store->geometry.table_offset + (uint64_t)index * BLOCK_SIZE);
    }
    r = co_control_wait(&wait);
    work->images_done = log_last_sequence(store->log);
    return r;
}

/* ---- 5, 6: in place ---- */

static int co_place_images(struct checkpoint *work)
{
    cleanup(freep) struct transfer *transfers = calloc(work->image_count + 1, sizeof(*transfers));
    cleanup(freep) struct iovec *iov = calloc(work->image_count + 1, sizeof(*iov));
    size_t writes = 0;

    if (!transfers || !iov)
        return -ENOMEM;
    for (size_t i = 0; i < work->image_count; i++) {
        const struct image *image = &work->images[i];
        struct transfer *last = writes > 0 ? &transfers[writes - 1] : NULL;

        iov[i] = (struct iovec){(void *)image->control.item.data, BLOCK_SIZE};
        if (last && last->offset + (uint64_t)last->iov_count * BLOCK_SIZE == image->target &&
            last->iov_count < MERGE_IOVS)
            last->iov_count++;
        else
            transfers[writes++] =
                (struct transfer){.iov = &iov[i], .iov_count = 1, .offset = image->target};
    }
    return co_transfer(disk_file(work->store->disk), TRANSFER_WRITE, transfers, writes,
                       DESTAGE_DEPTH);
}

/* ---- 7: the end ---- */

static void forget_entries(struct checkpoint *work)
{
    struct store *store = work->store;

    for (size_t i = 0; i < work->item_count; i++) {
        const struct destage *item = &work->items[i];

        if (overlay_in_use(store->overlay, item->ring_block) &&
            overlay_key(store->overlay, item->ring_block) == item->key)
            overlay_remove(store->overlay, item->ring_block);
    }
    overlay_zero_end(store->overlay);
}

static void work_reset(struct checkpoint *work)
{
    for (size_t i = 0; i < work->page_count; i++)
        page_put(work->store->pages, work->pages[i]);
    work->page_count = 0;
    free(take_ptr(work->images));
    free(take_ptr(work->table_blocks));
    work->image_count = 0;
}

/* Everything that may fail half-way. */
static int co_destage(struct checkpoint *work)
{
    struct io_file *file = disk_file(work->store->disk);
    int r;

    r = co_write_data(work);
    if (r < 0)
        return r;
    r = co_change_pages(work);
    if (r < 0)
        return r;
    r = co_zero_pages(work);
    if (r < 0)
        return r;
    pages_unique(work);
    r = co_record_compares(work);
    if (r < 0)
        return r;
    r = co_log_images(work);
    if (r < 0)
        return r;
    r = co_io_sync(file);
    if (r < 0)
        return r;
    r = co_place_images(work);
    if (r < 0)
        return r;
    return co_io_sync(file);
}

/* Takes the oldest want_blocks of the log. Returns 0, -EAGAIN (nothing can be done before a
 * watermark moves), or an error. */
static int co_checkpoint_once(struct checkpoint *work, uint64_t want_blocks)
{
    struct store *store = work->store;
    int r;

    r = choose_region(work, want_blocks);
    if (r < 0)
        return r;
    r = co_move_records(work);
    if (r < 0)
        return r;
    r = co_record_streams(work);
    if (r < 0)
        return r;
    r = collect(work);
    if (r < 0)
        return r;
    r = co_destage(work);
    if (r == 0) {
        struct log_cut cut = {work->cut, work->batches, work->images_done, work->copies_done};

        forget_entries(work);
        r = co_log_move_tail(store->log, &cut);
        store->stats.checkpoints++;
    }
    work_reset(work);
    return r;
}

static int co_checkpoint_locked(struct store *store)
{
    uint64_t want = log_ring_blocks(store->log) / REGION_FRACTION;
    int r;

    co_mutex_lock(&store->checkpoint.running);
    r = log_error(store->log);
    if (r == 0)
        r = co_checkpoint_once(store->checkpoint.work, want);
    if (r < 0 && r != -EAGAIN && log_error(store->log) == 0) {
        store_report(store, r);
        store_fail(store, r);
    }
    co_mutex_unlock(&store->checkpoint.running);
    return r;
}

int co_store_checkpoint(struct store *store)
{
    uint64_t target = log_head(store->log);

    while (log_tail(store->log) < target) {
        int r = co_checkpoint_locked(store);

        if (r == -EAGAIN)
            return 0; /* the rest waits for its owner */
        if (r < 0)
            return r == -ECANCELED ? r : -EIO;
    }
    return 0;
}

/* ---- in the background ---- */

static bool wants_checkpoint(const struct store *store)
{
    return log_error(store->log) == 0 &&
           log_used_blocks(store->log) > log_ring_blocks(store->log) / 2;
}

static void checkpoint_main(void *arg)
{
    struct store *store = arg;
    struct checkpoint_state *state = &store->checkpoint;

    while (!state->stop) {
        uint64_t commits = store->commits;
        bool blocked = false;

        if (wants_checkpoint(store))
            blocked = co_checkpoint_locked(store) == -EAGAIN;
        /* blocked: nothing will change before something is committed */
        while (!state->stop && (blocked ? store->commits == commits : !wants_checkpoint(store)))
            if (co_cond_wait(&state->wanted) < 0)
                return;
    }
}

void checkpoint_poke(struct store *store)
{
    if (co_cond_has_waiters(&store->checkpoint.wanted) && wants_checkpoint(store))
        co_cond_broadcast(&store->checkpoint.wanted);
}

static void work_free(struct checkpoint *work)
{
    if (!work)
        return;
    free(work->items);
    free(work->window);
    free(work->transfers);
    free(work->iov);
    free(work->pages);
    free(work);
}

static int work_new(struct store *store, struct checkpoint **ret_work)
{
    struct checkpoint *work = calloc(1, sizeof(*work));

    if (!work)
        return -ENOMEM;
    work->store = store;
    work->item_size = log_ring_blocks(store->log) / REGION_FRACTION + LOG_BATCH_BLOCKS_MAX;
    work->items = malloc(work->item_size * sizeof(*work->items));
    work->window = aligned_alloc(BLOCK_SIZE, (size_t)WINDOW_BLOCKS * BLOCK_SIZE);
    work->transfers = malloc(WINDOW_BLOCKS * sizeof(*work->transfers));
    work->iov = malloc(WINDOW_BLOCKS * sizeof(*work->iov));
    if (!work->items || !work->window || !work->transfers || !work->iov) {
        work_free(work);
        return -ENOMEM;
    }
    *ret_work = work;
    return 0;
}

int checkpoint_start(struct store *store)
{
    struct checkpoint_state *state = &store->checkpoint;
    int r;

    co_cond_init(&state->wanted);
    co_mutex_init(&state->running);
    co_group_init(&state->workers);
    state->serial = 1;
    r = work_new(store, &state->work);
    if (r < 0)
        return r;
    r = co_group_spawn(&state->workers, store->io, "checkpoint", checkpoint_main, store);
    if (r < 0)
        work_free(take_ptr(state->work));
    return r;
}

void co_checkpoint_stop(struct store *store)
{
    struct checkpoint_state *state = &store->checkpoint;

    state->stop = true;
    co_cond_broadcast(&state->wanted);
    co_group_wait(&state->workers);
    co_mutex_lock(&state->running); /* co_store_checkpoint() of somebody else */
    work_free(take_ptr(state->work));
    co_mutex_unlock(&state->running);
}
