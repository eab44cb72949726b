/* The life of a store, its extents and its figures. store_internal.h says what the other files do.
 */
#include "cache-tier/log_replay.h"
#include "cache-tier/store_internal.h"

#define PAGE_CACHE_PAGES 4096 /* 16 MiB: the checksums of 8 GiB */

/* ---- errors ---- */

void store_report(struct store *store, int error)
{
    if (error != -ECANCELED && store->on_error)
        store->on_error(store->on_error_arg, error);
}

void store_fail(struct store *store, int error)
{
    log_fail(store->log, error == -ECANCELED ? error : -EIO);
}

static void log_failed(void *arg, int error)
{
    struct store *store = arg;

    SOMETIMES_IF(error != -ECANCELED, "store: the disk dies under a write of the log");
    store_report(store, error);
    checkpoint_poke(store);
}

void store_set_error_handler(struct store *store, void (*fn)(void *arg, int error), void *arg)
{
    store->on_error = fn;
    store->on_error_arg = arg;
}

static void page_corrupt(void *arg, uint64_t number, int error)
{
    struct store *store = arg;

    (void)number;
    store->health.corrupt_pages++;
    store_report(store, error);
}

/* ---- log records of our own ---- */

void control_init(struct control *control, struct store *store, struct control_wait *wait,
                  const struct log_item_ops *ops, uint32_t header_bytes)
{
    memset(control, 0, sizeof(*control));
    control->item.ops = ops;
    control->item.header_bytes = header_bytes;
    control->store = store;
    control->wait = wait;
}

void control_append(struct control *control)
{
    struct store *store = control->store;

    control->wait->left++;
    log_append(store->new_log ? store->new_log : store->log, &control->item, LOG_RESERVED);
}

void control_done(struct control *control, int result)
{
    struct control_wait *wait = control->wait;

    if (result < 0 && wait->error == 0)
        wait->error = result;
    assert(wait->left > 0);
    if (--wait->left == 0 && wait->co)
        co_wake(wait->co);
}

int co_control_wait(struct control_wait *wait)
{
    if (wait->left > 0) {
        wait->co = co_self();
        co_wait();
        wait->co = NULL;
    }
    return wait->error;
}

/* ---- extents ---- */

void store_forget_extent(struct store *store, uint32_t extent)
{
    const struct extent_row *row = extent_table_row(store->table, extent);
    struct stream *stream = stream_find(&store->streams, row->vdisk);

    SOMETIMES_IF(overlay_extent_count(store->overlay, extent) > 0,
                 "store: an extent is forgotten while the log has blocks of it");
    overlay_drop_extent(store->overlay, extent);
    if (store->read_cache)
        read_cache_forget(store->read_cache, store_key(store, extent, 0),
                          1ull << store->extent_shift);
    if (stream && row->flags & EXTENT_USED) {
        list_for_each_safe (node, &stream->pending) {
            struct pending *pending = list_entry(node, struct pending, node);

            if (pending->where.extent != extent)
                continue;
            stream_remove_pending(stream, pending);
            pending_put(&store->streams, pending);
            store_settled(store);
        }
    }
    rotten_forget(&store->rotten, store_key(store, extent, 0), 1ull << store->extent_shift);
    free(take_ptr(store->extents[extent].compare));
    store->extents[extent].withheld = false;
    store->extents[extent].forgotten_in = store->checkpoint.serial;
}

int store_check_extent(const struct store *store, uint64_t vdisk, struct extent_ref where)
{
    const struct extent_row *row;

    if (where.extent >= store->geometry.extent_count || where.generation == 0)
        return -EINVAL;
    row = extent_table_row(store->table, where.extent);
    if (row->flags & EXTENT_LOST || where.generation > row->generation)
        return 1;
    if ((where.generation < row->generation || !(row->flags & EXTENT_USED)) &&
        !PLANTED(GENERATION_NOT_CHECKED)) {
        SOMETIMES("store: a request for an older generation is refused");
        return -ESTALE;
    }
    return row->vdisk == vdisk ? 0 : -EINVAL;
}

void store_own_extent(struct store *store, struct extent_ref where, uint64_t vdisk, uint32_t slab,
                      uint16_t column)
{
    const struct extent_row *row = extent_table_row(store->table, where.extent);

    if (row->generation == where.generation && !(row->flags & EXTENT_LOST))
        return;
    INVARIANT(I10, row->flags & EXTENT_LOST || where.generation > row->generation);
    SOMETIMES_IF(row->generation != 0, "store: an extent begins another life");
    SOMETIMES_IF(row->flags & EXTENT_LOST, "store: a lost row of the extent table is adopted");
    if (!PLANTED(GENERATION_NOT_CLEAN))
        store_forget_extent(store, where.extent);
    if (row->flags & (EXTENT_LOST | EXTENT_ADOPTED))
        extent_table_adopt(store->table, where.extent, where.generation, vdisk, slab, column);
    else
        extent_table_init_row(store->table, where.extent, where.generation, vdisk, slab, column);
}

struct extent_control {
    struct control control;
    struct extent_ref where;
};

static bool free_encode(struct log_item *item, void *to)
{
    struct extent_control *free_extent = container_of(item, struct extent_control, control.item);
    struct log_extent_record *record = to;

    record->head.kind = LOG_FREE;
    record->head.bytes = sizeof(*record);
    record->extent = free_extent->where.extent;
    record->generation = free_extent->where.generation;
    return true;
}

static void free_done(struct log_item *item, int result)
{
    control_done(container_of(item, struct control, item), result);
}

void store_free_row(struct store *store, struct extent_ref where)
{
    store_forget_extent(store, where.extent);
    extent_table_free_row(store->table, where.extent, where.generation);
}

static void free_append(struct store *store, struct extent_ref where,
                        struct extent_control *control, struct control_wait *wait)
{
    static const struct log_item_ops ops = {.encode = free_encode, .done = free_done};

    /* before it is durable: nobody reads it any more, and a crash only brings back what may go */
    store_free_row(store, where);
    control->where = where;
    control_init(&control->control, store, wait, &ops, sizeof(struct log_extent_record));
    control_append(&control->control);
}

int co_store_free_extent(struct store *store, struct extent_ref where)
{
    struct control_wait wait = {0};
    struct extent_control control;
    const struct extent_row *row;
    STORE_GATE(store);

    if (where.extent >= store->geometry.extent_count)
        return -EINVAL;
    row = extent_table_row(store->table, where.extent);
    if (!(row->flags & EXTENT_LOST) && row->generation > where.generation)
        return -ESTALE;
    free_append(store, where, &control, &wait);
    return co_control_wait(&wait);
}

uint32_t store_lost_extents(const struct store *store)
{
    return extent_table_lost_rows(store->table);
}

int co_store_free_lost(struct store *store, uint64_t index, const struct store_extent *columns,
                       size_t column_count)
{
    uint32_t extents = store->geometry.extent_count;
    cleanup(freep) bool *named = calloc(extents, sizeof(*named));
    cleanup(freep) struct extent_control *controls = calloc(extents, sizeof(*controls));
    struct control_wait wait = {0};
    STORE_GATE(store);

    if (!named || !controls)
        return -ENOMEM;
    for (size_t i = 0; i < column_count; i++)
        if (columns[i].where.extent < extents)
            named[columns[i].where.extent] = true;
    for (uint32_t i = 0; i < extents && !PLANTED(LOST_ROWS_KEPT); i++) {
        if (named[i] || !(extent_table_row(store->table, i)->flags & EXTENT_LOST))
            continue;
        SOMETIMES("store: a lost row that is no column's is freed");
        free_append(store, (struct extent_ref){i, index}, &controls[i], &wait);
    }
    return co_control_wait(&wait);
}

void store_each_extent(struct store *store,
                       void (*fn)(void *arg, const struct store_extent *extent), void *arg)
{
    for (uint32_t i = 0; i < store->geometry.extent_count; i++) {
        const struct extent_row *row = extent_table_row(store->table, i);
        struct store_extent extent = {
            .where = {.extent = i, .generation = row->generation},
            .vdisk = row->vdisk,
            .slab = row->slab,
            .column = row->column,
            .damaged = row->flags & EXTENT_DAMAGED,
            .withheld = store->extents[i].withheld,
        };

        if (row->flags & EXTENT_USED)
            fn(arg, &extent);
    }
}

/* ---- life ---- */

static void store_free(struct store *store)
{
    if (!store)
        return;
    store_metrics_remove(store);
    for (uint32_t i = 0; store->extents && i < store->geometry.extent_count; i++)
        free(store->extents[i].compare);
    free(store->extents);
    streams_done(&store->streams);
    log_free(store->log);
    page_cache_free(store->pages);
    overlay_free(store->overlay);
    extent_table_free(store->table);
    free(store->name);
    free(store);
}
DEFINE_CLEANUP(struct store, store_free)

int store_new_overlay(struct store *store, const struct log_region *region,
                      struct overlay **ret_overlay)
{
    struct overlay_options options = {
        .ring_blocks = log_region_blocks(region),
        .extent_count = store->geometry.extent_count,
        .extent_blocks = store->geometry.extent_blocks,
        .zero_run_blocks = CHECKSUM_PAGE_ENTRIES,
    };

    return overlay_new(&options, ret_overlay);
}

static int store_new(struct io *io, struct disk *disk, const struct store_options *options,
                     struct store **ret_store)
{
    cleanup(store_freep) struct store *store = calloc(1, sizeof(*store));
    struct page_cache_options pages;
    int r;

    if (!store)
        return -ENOMEM;
    streams_init(&store->streams);
    list_init(&store->copies);
    store->io = io;
    store->disk = disk;
    co_cond_init(&store->gate);
    co_cond_init(&store->checkpoint.wanted); /* replay pokes already */
    store->geometry = *disk_geometry(disk);
    store->log_region = log_region_of(disk, options->log_device);
    store->extent_shift = __builtin_ctz(store->geometry.extent_blocks);
    store->metrics = options->metrics;
    store->name = strdup(options->name ? options->name : disk_path(disk));
    store->extents = calloc(store->geometry.extent_count, sizeof(*store->extents));
    if (!store->name || !store->extents)
        return -ENOMEM;
    for (uint32_t i = 0; i < store->geometry.extent_count; i++)
        list_init(&store->extents[i].zeros);

    r = store_new_overlay(store, &store->log_region, &store->overlay);
    if (r < 0)
        return r;
    pages = (struct page_cache_options){
        .pages_max = options->page_cache_pages ? options->page_cache_pages : PAGE_CACHE_PAGES,
        .on_corrupt = page_corrupt,
        .arg = store,
    };
    r = page_cache_new(disk, &pages, &store->pages);
    if (r < 0)
        return r;
    *ret_store = take_ptr(store);
    return 0;
}

static void log_progressed(void *arg)
{
    store_note_head(arg);
    checkpoint_poke(arg);
}

void store_watch_log(struct store *store)
{
    log_set_error_handler(store->log, log_failed, store);
    log_set_progress_handler(store->log, log_progressed, store);
    log_set_pace(store->log, checkpoint_pace, store);
    log_set_latency(store->log, &store->counters.log_write_ns, &store->counters.log_wait_ns);
    store_note_open(store);
}

int co_store_open(struct io *io, struct disk *disk, const struct store_options *options,
                  struct store **ret_store)
{
    cleanup(store_freep) struct store *store = NULL;
    int r;

    if (!disk_log_is_own(disk) && !options->log_device)
        return -ENODEV;
    r = store_new(io, disk, options, &store);
    if (r < 0)
        return r;
    r = co_store_replay(store);
    if (r < 0)
        return r;
    store_watch_log(store);
    r = store_metrics_add(store);
    if (r == 0)
        r = checkpoint_start(store);
    if (r < 0)
        return r;
    *ret_store = take_ptr(store);
    return 0;
}

/* Lets the next open know what was committed, and that the last batch is whole. */
static void co_say_goodbye(struct store *store)
{
    struct stream *stream, *next;
    int r = 0;

    HASH_ITER(hh, store->streams.table, stream, next)
    {
        struct stream_control control;
        struct control_wait wait = {0};

        if (r < 0 || log_position_compare(stream->watermark, stream->durable_watermark) <= 0)
            continue;
        stream_control_append(store, stream, &control, &wait);
        r = co_control_wait(&wait);
    }
    if (r == 0)
        r = co_log_close_batch(store->log);
    (void)r; /* a crash says as little */
}

void co_store_close(struct store *store)
{
    if (!store)
        return;
    store->closing = true;
    log_reject_waiting(store->log, store_is_append_of, NULL, -ECANCELED);
    co_checkpoint_stop(store);
    co_log_drain(store->log);
    co_say_goodbye(store);
    co_log_drain(store->log);
    co_read_cache_free(take_ptr(store->read_cache));
    store_free(store);
}

const struct store_health *store_health(const struct store *store)
{
    return &store->health;
}

struct disk *store_disk(struct store *store)
{
    return store->disk;
}

int co_store_set_read_cache(struct store *store, const struct read_cache_options *options)
{
    struct read_cache *cache = NULL;
    int r = options->bytes > 0 ? read_cache_new(options, &cache) : 0;

    co_read_cache_free(take_ptr(store->read_cache));
    store->read_cache = cache;
    return r;
}

bool store_stream_info(const struct store *store, uint64_t vdisk,
                       struct store_stream_info *ret_info)
{
    const struct stream *stream = stream_find(&store->streams, vdisk);

    if (!stream)
        return false;
    *ret_info = (struct store_stream_info){
        .sealed_epoch = stream->sealed_epoch,
        .durable_epoch = stream->durable_epoch,
        .session = stream->session,
        .accepted_seq = stream->accepted_seq,
        .watermark = stream->watermark,
        .pending_records = stream->pending_count,
    };
    return true;
}
