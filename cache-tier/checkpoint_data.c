/* Step 3 of a checkpoint: blocks from the log to their place, a window at a time: read back from
 * the log, in its order, and written in the order of the disk, neighbours merged.
 *
 * With the log on the disk itself a window is a piece of the log, and few large reads bring it.
 * With the log on a faster disk it is a piece of the place: a slow disk is swept once a checkpoint,
 * in one direction, over gaps that are as small as the region is large; the log's disk does not
 * mind small reads. */
#include "cache-tier/checkpoint_internal.h"

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
    INVARIANT(I2, overlay_record(overlay, at) == 0); /* committed */
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

/* Its watermark is in the log: no crash makes it uncommitted again. An extent with another life has
 * none of its blocks any more. */
static bool is_committed_for_good(const struct store *store, const struct pending *copy)
{
    const struct extent_row *row = extent_table_row(store->table, copy->where.extent);
    const struct stream *stream = stream_find(&store->streams, row->vdisk);

    return row->generation != copy->where.generation || !stream ||
           log_position_compare(copy->position, stream->durable_watermark) <= 0;
}

/* Those that a watermark covers which is not durable wait for the next checkpoint. After a crash
 * they are uncommitted, and may be dropped: then their images must not be there, without the data.
 */
static int collect_copies(struct checkpoint *work)
{
    struct store *store = work->store;

    list_for_each_safe (node, &store->copies) {
        struct pending *copy = list_entry(node, struct pending, node);
        int r;

        if (!is_committed_for_good(store, copy))
            continue;
        r = collect_copy(work, copy);
        if (r < 0)
            return r;
        pending_put(&store->streams, copy);
    }
    return 0;
}

int checkpoint_collect(struct checkpoint *work)
{
    struct store *store = work->store;
    uint64_t blocks = work->cut - work->from;
    int r = 0;

    work->item_count = 0;
    for (uint64_t i = 0; i < blocks && r == 0; i++) {
        uint32_t at = log_block_of(store->log, work->from + i);

        if (!overlay_in_use(store->overlay, at))
            continue;
        if (overlay_record(store->overlay, at) != 0) {
            SOMETIMES("checkpoint: a record is just being dropped");
            if (PLANTED(MOVE_FORGOTTEN))
                continue;
            return -EAGAIN; /* its drop is on the way: come back */
        }
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

static int compare_keys(const void *a, const void *b)
{
    const struct destage *x = a, *y = b;

    return x->key < y->key ? -1 : x->key > y->key;
}

static int compare_ring_blocks(const void *a, const void *b)
{
    const struct destage *x = a, *y = b;

    return x->ring_block < y->ring_block ? -1 : x->ring_block > y->ring_block;
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
               i + 1 - first < MERGE_IOVS)
            i++;
        i++;
        work->iov[reads] =
            (struct iovec){work->window + first * BLOCK_SIZE, (i - first) * BLOCK_SIZE};
        work->transfers[reads] =
            (struct transfer){.iov = &work->iov[reads], .iov_count = 1, .offset = offset};
        reads++;
    }
    return co_checkpoint_transfer(work, TRANSFER_READ, work->transfers, reads);
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
    return co_checkpoint_transfer(work, TRANSFER_WRITE, work->transfers, writes);
}

int co_checkpoint_data(struct checkpoint *work)
{
    cleanup(freep) struct placed *placed = malloc(CHECKPOINT_WINDOW_BLOCKS * sizeof(*placed));

    if (!placed)
        return -ENOMEM;
    if (log_is_elsewhere(work->store))
        qsort(work->items, work->item_count, sizeof(*work->items), compare_keys);
    for (size_t done = 0; done < work->item_count;) {
        size_t count = MIN(CHECKPOINT_WINDOW_BLOCKS, work->item_count - done);
        int r;

        if (log_is_elsewhere(work->store))
            qsort(&work->items[done], count, sizeof(*work->items), compare_ring_blocks);
        r = co_read_window(work, &work->items[done], count);
        if (r < 0)
            return r;
        for (size_t i = 0; i < count; i++)
            placed[i] = (struct placed){work->items[done + i].key, i};
        r = co_write_window(work, placed, count);
        if (r < 0)
            return r;
        done += count;
    }
    counter_add(&work->store->counters.destaged_blocks, work->item_count);
    return 0;
}
