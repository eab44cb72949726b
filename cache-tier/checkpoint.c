/* Moves what is committed from the log to its place, and then the log's tail:
 *
 *   1: uncommitted records in the way are copied to the log's head
 *
 *   2: streams' states into the log: what is destaged stays committed whatever happens (I2)
 *
 *   3: the newest committed version of each block, read back in large pieces, sorted, merged, to
 *      its place
 *
 *   4: images of every checksum page and table block that this changes, into the log, synced
 *
 *   5: the disk synced: data is there before any checksum says so
 *
 *   6: pages and table blocks in place; the disk synced
 *
 *   7: overlay entries go, the log's anchors get the new tail
 *
 * Until 7 the log holds everything, so each step may be repeated after a crash: replay puts the
 * images of an unfinished checkpoint in place and applies the records again. Reads are right
 * throughout: a block that is being destaged is read from the log until 7. What is in the log's
 * head meanwhile is no concern of this: the region is fixed when it begins, and no new record can
 * appear in it.
 *
 * A checkpoint never waits for room that only it can make. For each image that a piece of the log
 * will take there is a block in it, which the tail gives up, or one that is owed (log.h), which
 * nobody else was given: a written block pays for the page of its checksum, a trim owes for the
 * pages that it leaves in part. So the zeros of a page are destaged with the oldest trim of it and
 * no earlier, and a page that has nothing but zeros and blocks still in the log behind the region
 * is given up, not written. What is said besides (streams, table blocks, compare lists, copies,
 * headers) comes out of the eighth that is kept, of which others may take half: a region has no
 * more images and copies than that leaves room for. A copy owes what its original did. */
#include "cache-tier/checkpoint_internal.h"

#define REGION_FRACTION 16
#define WIDE_FRACTION 4 /* see widen_region() */

/* ---- the region ---- */

/* What a batch gives up when the tail passes: as much as it takes to put it in its place, or more.
 */
static uint64_t batch_cost(const struct log *log, uint64_t position)
{
    return log_batch_blocks(log, position) + log_batch_owed(log, position);
}

/* What a checkpoint says whatever its region: streams, rows, compare lists (a batch each). */
static uint64_t said_blocks(const struct store *store)
{
    uint64_t streams = HASH_COUNT(store->streams.table) * sizeof(struct log_stream_record);
    uint64_t list = 1 + DIV_ROUND_UP(store_bitmap_bytes(store), BLOCK_SIZE);
    uint64_t blocks = 1 + DIV_ROUND_UP(streams, BLOCK_SIZE);

    for (uint32_t i = 0; i < store->geometry.extent_count; i++)
        blocks += store->extents[i].compare ? list : 0;
    return blocks + extent_table_dirty_blocks(store->table);
}

/* Blocks that are owed to nobody, and that are not for what will be said. */
static uint64_t room_left(const struct store *store, uint64_t said)
{
    const struct log *log = store->log;
    uint64_t taken = log_used_blocks(log) + log_owed_blocks(log) + said;

    return log_ring_blocks(log) - MIN(taken, log_ring_blocks(log));
}

/* How many images a checkpoint may take: half of the room. One that a crash cuts short leaves its
 * own behind and has to begin again, with what is left. But one that frees less than it says gets
 * nowhere. */
static uint64_t images_limit(const struct store *store, uint64_t room, uint64_t said,
                             uint64_t want_blocks)
{
    uint64_t limit = store->checkpoint.at_any_price ? room / 2 : MAX(room / 2, MIN(room, 2 * said));

    return MIN(want_blocks, limit);
}

static void begin_region(struct checkpoint *work)
{
    work->from = work->cut = log_tail(work->store->log);
    work->batches = work->cost = 0;
}

/* Grows the region by one batch at least. */
static void extend_region(struct checkpoint *work, uint64_t limit)
{
    struct log *log = work->store->log;
    uint64_t head = log_head(log), cost = 0;

    while (work->cut < head && (cost == 0 || cost + batch_cost(log, work->cut) <= limit)) {
        cost += batch_cost(log, work->cut);
        work->cut += log_batch_blocks(log, work->cut);
        work->batches++;
    }
    work->cost += cost;
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
                blocks +=
                    1 + (pending->kind == RECORD_WRITE ? pending->count : 0) +
                    store_record_owes(work->store, pending->kind, pending->block, pending->count);
        }
    }
    return blocks;
}

/* The oldest uncommitted record behind the region; where it begins. */
static uint64_t next_pending(const struct checkpoint *work)
{
    struct stream *stream, *next;
    uint64_t position = UINT64_MAX;

    HASH_ITER(hh, work->store->streams.table, stream, next)
    {
        list_for_each (node, &stream->pending) {
            const struct pending *pending = list_entry(node, struct pending, node);

            if (!in_region(work, pending))
                position = MIN(position, pending->batch_position);
        }
    }
    return position;
}

/* Notes the checksum pages that the blocks of a piece of the log belong to. Returns how many images
 * it may take: of those that are new, and what its trims owe. */
static uint64_t note_pages(struct checkpoint *work, uint64_t from, uint64_t to)
{
    const struct store *store = work->store;
    uint64_t count = 0;

    for (uint64_t position = from; position < to;
         position += log_batch_blocks(store->log, position))
        count += log_batch_owed(store->log, position);
    for (uint64_t position = from; position < to; position++) {
        uint32_t at = log_block_of(store->log, position);
        uint64_t page, bit;

        if (!overlay_in_use(store->overlay, at))
            continue;
        page = key_page_number(store, overlay_key(store->overlay, at));
        bit = 1ull << (page % 64);
        count += !(work->pages_seen[page / 64] & bit);
        work->pages_seen[page / 64] |= bit;
    }
    return count;
}

/* A hard disk takes about as long for many blocks as for few, as long as it sweeps over all of them
 * in one direction: the time goes into what lies between. So the region grows to a quarter of the
 * log, but not over records that would have to be copied, nor over more checksum pages than what is
 * kept for their images has room for. */
static void widen_region(struct checkpoint *work, uint64_t limit)
{
    struct log *log = work->store->log;
    uint64_t end = work->from + log_ring_blocks(log) / WIDE_FRACTION;
    uint64_t pages;

    end = MIN(MIN(end, log_head(log)), next_pending(work));
    memset(work->pages_seen, 0, work->pages_seen_bytes);
    pages = note_pages(work, work->from, work->cut);
    while (work->cut < end) {
        uint64_t next = work->cut + log_batch_blocks(log, work->cut);

        pages += note_pages(work, work->cut, next);
        if (next > end || pages > limit)
            break;
        work->cut = next;
        work->batches++;
    }
}

static bool frees_too_little(const struct checkpoint *work, uint64_t pending)
{
    return pending > work->cost / 2 && !work->store->checkpoint.at_any_price;
}

/* Until what is uncommitted in it can be copied, or it is one batch. Returns how much that is. */
static uint64_t shrink_region(struct checkpoint *work, uint64_t limit, uint64_t copies)
{
    uint64_t pending = pending_in_region(work);

    for (; pending > copies && limit > 0; limit /= 2) {
        SOMETIMES("checkpoint: less of the log, or the copies would not fit");
        begin_region(work);
        extend_region(work, limit);
        pending = pending_in_region(work);
    }
    return pending;
}

/* The oldest sixteenth of the log, or more: as long as most of it is uncommitted records, which are
 * only copied, it frees too little. Returns 0, or -EAGAIN: it would still, or the copies would not
 * fit in what is kept for them. */
static int choose_region(struct checkpoint *work, uint64_t want_blocks)
{
    struct log *log = work->store->log;
    uint64_t said = said_blocks(work->store), room = room_left(work->store, said);
    uint64_t limit = images_limit(work->store, room, said, want_blocks), pending;
    uint64_t copies = MIN(want_blocks, room - limit);

    begin_region(work);
    if (log_used_blocks(log) + said > log_ring_blocks(log))
        return -EAGAIN; /* it would wait for room for ever, and with it who closes the store */
    do {
        extend_region(work, limit);
        pending = pending_in_region(work);
    } while (frees_too_little(work, pending) && pending <= copies && work->cut < log_head(log));
    if (work->store->checkpoint.at_any_price)
        pending = shrink_region(work, limit, copies);
    SOMETIMES_IF(pending > 0, "checkpoint: uncommitted records are in the way");
    if (work->cut == work->from || pending > copies || frees_too_little(work, pending)) {
        SOMETIMES("checkpoint: waits for a watermark");
        return -EAGAIN;
    }
    if (log_is_elsewhere(work->store))
        widen_region(work, limit);
    return 0;
}

/* ---- sharing the device ---- */

/* Clients come first. What a checkpoint reads and writes goes to the device in waves: small, so
 * that a log write never stands behind much of it, and each one submission and one wake-up. Between
 * them it rests, three times as long as the wave took (a quarter of the device is its own whatever
 * clients do) or less, the fuller the log, down to nothing. So under a steady load the log settles
 * where it is drained as fast as it fills, and what is written again meanwhile is destaged once.
 * Rejected: a fixed depth. One that keeps up with a full log makes log writes three times slower
 * for as long as a checkpoint runs; a small one costs a wake-up a block. */
#define WAVE_TRANSFERS 16
#define WAVE_BLOCKS 128
/* On a disk that has no log, and that is behind: no more of a wave than a queue that never runs
 * dry, or what lies ahead of the head of a hard disk has passed by when the next wave comes. */
#define STREAM_TRANSFERS 256
#define RESTS_MAX 3
#define REST_NS_MAX (50 * MS)

/* In sixteenths of the log: where a checkpoint begins, where clients may be held back (throttle.h),
 * and where a checkpoint no longer rests, held back or not. Clients may fill fourteen. A log that
 * is elsewhere is destaged a quarter at a time, so that much must lie between the mark and full. */
#define FILL_BEGIN 10
#define FILL_MARK 12
#define FILL_BEGIN_ELSEWHERE 8
#define FILL_MARK_ELSEWHERE 10
#define FILL_HURRY 13
#define FILL_ALL 16

static uint64_t taken_blocks(const struct store *store)
{
    return log_used_blocks(store->log) + log_owed_blocks(store->log);
}

static bool is_filled_above(const struct store *store, unsigned sixteenths)
{
    return taken_blocks(store) > log_ring_blocks(store->log) / FILL_ALL * sixteenths;
}

static unsigned fill_begin(const struct store *store)
{
    return log_is_elsewhere(store) ? FILL_BEGIN_ELSEWHERE : FILL_BEGIN;
}

static uint64_t rest_after(const struct store *store, uint64_t took_ns)
{
    uint64_t sixteenth = log_ring_blocks(store->log) / FILL_ALL;
    uint64_t taken = taken_blocks(store), hurry = FILL_HURRY * sixteenth;
    uint64_t span = (FILL_HURRY - fill_begin(store)) * sixteenth;

    if (store->checkpoint.stop || taken >= hurry || log_is_full(store->log) ||
        throttle_is_on(&store->throttle, io_now_ns(store->io)))
        return 0;
    return MIN(took_ns * RESTS_MAX * MIN(hurry - taken, span) / span, REST_NS_MAX);
}

uint64_t checkpoint_pace(void *arg, uint64_t room, uint32_t blocks)
{
    struct store *store = arg;
    unsigned mark = log_is_elsewhere(store) ? FILL_MARK_ELSEWHERE : FILL_MARK;

    if (PLANTED(THROTTLE_OFF))
        return 0;
    return throttle_admit(&store->throttle, io_now_ns(store->io), is_filled_above(store, mark),
                          room, blocks);
}

static size_t wave_length(const struct store *store, const struct transfer *transfers, size_t count)
{
    size_t bytes = 0, n = 0;

    if (log_is_elsewhere(store) && rest_after(store, SEC) == 0)
        return MIN(count, STREAM_TRANSFERS);
    while (n < MIN(count, WAVE_TRANSFERS) && bytes < WAVE_BLOCKS * BLOCK_SIZE) {
        for (int i = 0; i < transfers[n].iov_count; i++)
            bytes += transfers[n].iov[i].iov_len;
        n++;
    }
    return n;
}

/* What is written first are blocks; checksum pages, later, are no progress of theirs. */
static void note_progress(struct checkpoint *work, const struct transfer *transfers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        work->blocks_placed += transfers[i].iov_count;
    throttle_progress(&work->store->throttle, io_now_ns(work->store->io),
                      MIN(work->blocks_placed, work->item_count));
}

int co_checkpoint_transfer(struct checkpoint *work, enum transfer_kind kind,
                           struct transfer *transfers, size_t count)
{
    struct store *store = work->store;
    /* what is read is the log, what is written goes to its place */
    struct io_file *file = kind == TRANSFER_READ ? store->log_region.file : disk_file(store->disk);

    while (count > 0) {
        uint64_t start_ns = io_now_ns(store->io), rest_ns;
        size_t wave = wave_length(store, transfers, count);
        int r;

        r = co_transfer(file, kind, transfers, wave, WAVE_TRANSFERS);
        if (kind == TRANSFER_READ)
            log_note_device(store->log, r);
        if (r < 0)
            return r;
        if (kind == TRANSFER_WRITE)
            note_progress(work, transfers, wave);
        transfers += wave;
        count -= wave;
        rest_ns = rest_after(store, io_now_ns(store->io) - start_ns);
        r = count > 0 && rest_ns > 0 ? co_sleep_ns(rest_ns) : 0;
        throttle_rested(&store->throttle, rest_ns);
        if (r < 0)
            return r;
    }
    return 0;
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
        if (store->read_cache && !PLANTED(READ_CACHE_NOT_FORGOTTEN))
            read_cache_forget(store->read_cache, item->key, 1);
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

    r = co_checkpoint_data(work);
    if (r < 0)
        return r;
    r = co_checkpoint_pages(work);
    if (r < 0)
        return r;
    r = PLANTED(ZEROS_FORGOTTEN) ? 0 : co_checkpoint_zeros(work);
    if (r < 0)
        return r;
    checkpoint_pages_unique(work);
    r = PLANTED(LIST_NOT_CARRIED) ? 0 : co_checkpoint_compares(work);
    if (r < 0)
        return r;
    r = co_checkpoint_images(work);
    if (r < 0)
        return r;
    r = co_io_sync(file);
    if (r < 0)
        return r;
    r = co_checkpoint_place(work);
    if (r < 0)
        return r;
    return PLANTED(PAGES_NOT_SYNCED) ? 0 : co_io_sync(file);
}

/* Takes the oldest want_blocks of the log. Returns 0, -EAGAIN (nothing can be done before a
 * watermark moves), or an error. */
static int co_checkpoint_once(struct checkpoint *work, uint64_t want_blocks)
{
    struct store *store = work->store;
    uint64_t start_ns = io_now_ns(store->io);
    int r;

    r = choose_region(work, want_blocks);
    if (r < 0)
        return r;
    r = PLANTED(MOVE_FORGOTTEN) ? 0 : co_checkpoint_move(work);
    if (r < 0)
        return r;
    r = co_checkpoint_streams(work);
    if (r < 0)
        return r;
    r = checkpoint_collect(work);
    if (r < 0)
        return r;
    if (PLANTED(OVERLAY_EARLY))
        forget_entries(work);
    work->blocks_placed = 0;
    throttle_begin(&store->throttle, start_ns, work->item_count);
    r = co_destage(work);
    if (r == 0) {
        struct log_cut cut = {work->cut, work->batches, work->images_done, work->copies_done};

        forget_entries(work);
        r = co_log_move_tail(store->log, &cut);
        if (r == 0)
            r = co_store_note_anchors(store);
        counter_add(&store->counters.checkpoints, 1);
    }
    throttle_end(&store->throttle, io_now_ns(store->io), r == 0);
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

/* Trims fill RAM, not the log: 9 KiB to an extent of 256 MiB that has any, until they are in place.
 */
#define ZERO_EXTENTS_MAX 1024

/* A small log can be full without being filled: a batch does not wrap around its end. */
static bool wants_checkpoint(const struct store *store)
{
    return log_error(store->log) == 0 &&
           (is_filled_above(store, fill_begin(store)) || log_is_full(store->log) ||
            overlay_zero_extents(store->overlay) > ZERO_EXTENTS_MAX);
}

static void checkpoint_main(void *arg)
{
    struct store *store = arg;
    struct checkpoint_state *state = &store->checkpoint;

    while (!state->stop) {
        uint64_t settled = store->settled;
        bool blocked = false;

        if (wants_checkpoint(store))
            blocked = co_checkpoint_locked(store) == -EAGAIN;
        /* blocked: nothing will change before something is committed or goes */
        while (!state->stop && (blocked ? store->settled == settled : !wants_checkpoint(store)))
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
    free(work->pages_seen);
    free(work->window);
    free(work->transfers);
    free(work->iov);
    free(work->pages);
    free(work);
}

static size_t pages_seen_bytes(const struct store *store)
{
    return DIV_ROUND_UP(store_page_number(store, store->geometry.extent_count, 0), 64) * 8;
}

static int work_new(struct store *store, struct checkpoint **ret_work)
{
    struct checkpoint *work = calloc(1, sizeof(*work));

    if (!work)
        return -ENOMEM;
    work->store = store;
    work->item_size = log_ring_blocks(store->log) / REGION_FRACTION + LOG_BATCH_BLOCKS_MAX;
    if (log_is_elsewhere(store))
        work->item_size = log_ring_blocks(store->log) / WIDE_FRACTION + LOG_BATCH_BLOCKS_MAX;
    work->pages_seen_bytes = pages_seen_bytes(store);
    work->pages_seen = malloc(work->pages_seen_bytes);
    work->items = malloc(work->item_size * sizeof(*work->items));
    work->window = aligned_alloc(BLOCK_SIZE, (size_t)CHECKPOINT_WINDOW_BLOCKS * BLOCK_SIZE);
    work->transfers = malloc(CHECKPOINT_WINDOW_BLOCKS * sizeof(*work->transfers));
    work->iov = malloc(CHECKPOINT_WINDOW_BLOCKS * sizeof(*work->iov));
    if (!work->items || !work->pages_seen || !work->window || !work->transfers || !work->iov) {
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
