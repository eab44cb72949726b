/* Resync: how a stale column becomes in-sync again (I8).
 *
 * The feed is open and `catching`: every write that begins now goes to the stale columns too. So
 * once the writes that began before have ended, two copies of a block can differ only where they
 * differed then, and what is found equal stays equal. Compared, by checksum, are the blocks that an
 * in-sync column changed since the stale epoch, those in its log, and the target's own list (what
 * it dropped, what is in its log); of a new column, all. A block that differs is copied under its
 * range lock with a fresh seq. In parity "a block" is a column's block of a row, and what it is
 * compared with is what the other columns decode to (parity_resync.c). How fast copies go next to
 * clients is pace.h's matter.
 *
 * Then the columns are *counted*: each write waits for them like for in-sync ones. When what was
 * sent before has arrived too, the watermark is made durable there, and "in-sync" is proposed,
 * until a configuration answers (I1). A slab that waits for its takeover, or of which no source
 * gives a block, is left out of that and tried again: others need not wait for it. If the feed
 * breaks before the proposal all of this begins anew, from the durable state of the columns;
 * nothing of it lives in the owner's memory. */
#include "resiliency/parity_private.h"

#define CHUNK_BLOCKS 2048   /* whose checksums are asked for at once */
#define SLABS_PROPOSED 1024 /* in one command */
#define BARRIER_POLL_NS                                                                            \
    (5 * MS) /* a feed that breaks does not wake those who wait for writes                         \
              */

struct resync {
    struct feed *feed;
    struct mirror *mirror;
    uint64_t *asked, *left_out; /* a bit to each slab: to be brought up; not in this attempt */
    uint32_t slab_count;        /* when it began: later ones are in-sync */
    int why_left_out;           /* of the first; -EAGAIN: all of them wait for their takeover */
    uint32_t slab, column;
    int error; /* the first */
    struct co_sem slots;
    struct co_group copies;
    uint64_t *todo; /* a bit to each block of the slab */
    uint64_t source_sums[CHUNK_BLOCKS], target_sums[CHUNK_BLOCKS];
    uint64_t unknown[CHUNK_BLOCKS / 64];
};

static bool bit_get(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= UINT64_C(1) << (i % 64);
}

/* The slab's column on this disk; NULL: it has none there. */
static const struct column_config *column_here(const struct feed *feed, uint32_t slab)
{
    const struct column_config *columns = mirror_columns(feed->mirror, slab);

    for (uint32_t i = 0; i < feed->mirror->config->width; i++) {
        if (columns[i].disk == feed->disk)
            return &columns[i];
    }
    return NULL;
}

size_t resync_list_columns(const struct feed *feed, struct extent_ref *refs)
{
    const struct mirror *mirror = feed->mirror;
    size_t count = 0;

    for (uint32_t slab = 0; slab < mirror->slab_count; slab++) {
        const struct column_config *columns = mirror_columns(mirror, slab);

        for (uint32_t i = 0; i < mirror->config->width; i++) {
            if (columns[i].disk == feed->disk && columns[i].state == COLUMN_STALE)
                refs[count++] = columns[i].where;
        }
    }
    assert(count == feed->stale_columns);
    return count;
}

/* Waits until every write that began so far is committed. */
static int co_wait_for_writes(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    uint64_t seq = mirror->seq;

    while (feed->up && mirror_watermark(mirror).seq < seq) {
        int r = co_cond_wait_until(&mirror->progress, io_now_ns(mirror->io) + BARRIER_POLL_NS);

        if (r == -ECANCELED)
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

/* Waits until the store holds everything that was sent to it so far. */
static int co_wait_for_feed(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    uint64_t seq = mirror->seq;

    while (feed->up && !list_empty(&feed->parts) &&
           list_first(&feed->parts, struct feed_part, node)->append.store.record.position.seq <=
               seq) {
        int r = co_cond_wait_until(&mirror->progress, io_now_ns(mirror->io) + BARRIER_POLL_NS);

        if (r == -ECANCELED)
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

static int co_wait_while_paused(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;

    while (mirror->resync_paused && feed->up) {
        int r = co_mirror_wait(mirror, UINT64_MAX);

        if (r < 0)
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

/* ---- copying ---- */

struct resync_copy {
    struct resync *resync;
    struct write_extent extent;
};

/* Returns how many blocks it copied, or an error. */
static int co_copy_locked(struct resync *resync, struct write_extent extent, char *buffer)
{
    uint64_t sums[PIECE_BLOCKS];
    int r;

    r = co_read_any(resync->mirror, extent, buffer, sums, resync->feed);
    if (r < 0)
        return r;
    r = co_copy_blocks(resync->feed, resync->column, extent, buffer, sums, 0);
    return r < 0 ? r : (int)extent.count;
}

/* The columns stay stale, and nobody may have asked for the block yet: it is to be told. */
static void note_lost(struct mirror *mirror, struct write_extent extent)
{
    SOMETIMES("resync: no source has a block that can be read");
    counter_add(&mirror->lost_blocks, 1);
    log_error(mirror->io, "mirror", "a block cannot be copied: no in-sync copy of it can be read",
              "vdisk=%llu slab=%u block=%u count=%u", (unsigned long long)mirror->vdisk.id,
              extent.slab, extent.block, extent.count);
}

/* Its column may have moved since, and then the slab may be given back: nobody is inside. */
static bool is_here(const struct resync *resync, uint32_t slab)
{
    return resync->feed->up &&
           mirror_columns(resync->mirror, slab)[resync->column].disk == resync->feed->disk;
}

/* With the memory that the copy needs, and under its lock. */
static int co_copy_extent(struct resync *resync, struct write_extent extent)
{
    struct mirror *mirror = resync->mirror;
    uint64_t address = slab_address(mirror, extent.slab, extent.block);
    size_t bytes = (size_t)extent.count * BLOCK_SIZE;
    struct stripe stripe = {0};
    struct range_lock_hold hold;
    void *buffer = NULL;
    int r;

    if (mirror->erasure) /* always before a lock */
        co_stripe_get(&stripe, mirror, extent.count);
    else
        buffer = co_buffer_get(mirror->options.buffers, bytes);
    co_range_lock(&mirror->lock, &hold, PLANTED(COPY_NO_LOCK) ? (uintptr_t)&hold : address,
                  extent.count, true);
    if (!is_here(resync, extent.slab))
        r = -ENOTCONN;
    else if (mirror->erasure)
        r = co_parity_copy(resync->feed, resync->column, extent, &stripe);
    else
        r = co_copy_locked(resync, extent, buffer);
    if (r == -EIO && is_here(resync, extent.slab))
        note_lost(mirror, extent);
    range_unlock(&mirror->lock, &hold);
    if (mirror->erasure)
        stripe_put(&stripe);
    buffer_put(mirror->options.buffers, buffer, bytes);
    return r;
}

static void copy_run(void *arg)
{
    struct resync_copy copy = *(struct resync_copy *)arg;
    struct resync *resync = copy.resync;
    struct mirror *mirror = resync->mirror;
    int r;

    free(arg);
    r = co_copy_extent(resync, copy.extent);
    if (r > 0) {
        counter_add(&mirror->copied_blocks, (uint64_t)r);
        /* A store retires a copy when a watermark covers it, and a write that is stuck holds the
         * watermark: the target's log must not fill meanwhile, so the slot stays taken. */
        r = co_wait_for_writes(resync->feed);
    }
    if (r < 0 && resync->error == 0)
        resync->error = r;
    co_sem_give(&resync->slots, 1);
}

/* Clients first, but never to a standstill (pace.h). */
static int co_wait_for_pace(struct feed *feed, uint64_t bytes)
{
    struct mirror *mirror = feed->mirror;
    struct pace *pace = mirror->options.pace;

    while (pace && feed->up) {
        uint64_t now_ns = io_now_ns(mirror->io), at_ns = pace_ask(pace, now_ns, bytes);
        int r = at_ns > now_ns ? co_mirror_wait(mirror, at_ns) : 0;

        if (at_ns <= now_ns || (r < 0 && r != -ETIMEDOUT))
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

static int co_copy_start(struct resync *resync, struct write_extent extent)
{
    struct resync_copy *copy;
    int r;

    r = co_wait_while_paused(resync->feed);
    if (r == 0)
        r = co_wait_for_pace(resync->feed, (uint64_t)extent.count * BLOCK_SIZE);
    if (r < 0)
        return r;
    r = co_sem_take(&resync->slots, 1);
    if (r < 0)
        return r;
    copy = malloc(sizeof(*copy)); /* background work; the data path has pools */
    r = -ENOMEM;
    if (copy) {
        *copy = (struct resync_copy){resync, extent};
        r = co_group_spawn(&resync->copies, resync->mirror->io, "copy", copy_run, copy);
    }
    if (r < 0) {
        free(copy);
        co_sem_give(&resync->slots, 1);
    }
    return r;
}

/* ---- comparing ---- */

/* The column to compare with. */
struct source {
    struct feed *feed;
    struct extent_ref where;
};

/* An in-sync column whose feed is up; false: none answers now. Best is one that was in-sync
 * already when the target turned stale, in stale_epoch (*ret_knows: its stamps tell everything that
 * the target missed); then a local one. */
static bool find_source(const struct resync *resync, uint64_t stale_epoch,
                        struct source *ret_source, bool *ret_knows)
{
    const struct mirror *mirror = resync->mirror;
    const struct column_config *columns = mirror_columns(mirror, resync->slab);
    int best = -1;

    for (uint32_t i = 0; i < mirror->config->width; i++) {
        struct feed *feed = mirror_feed(mirror, resync->slab, i);
        bool knows = columns[i].in_sync_epoch < stale_epoch;
        int merit;

        if (!feed) /* our column has moved, and the slab was released since */
            return false;
        merit = 2 * knows + feed_is_local(feed);
        if ((columns[i].state != COLUMN_IN_SYNC &&
             (!PLANTED(STALE_IS_SOURCE) || feed == resync->feed)) ||
            !feed->up || merit <= best)
            continue;
        INVARIANT(I8, columns[i].state == COLUMN_IN_SYNC);
        best = merit;
        *ret_source = (struct source){feed, columns[i].where};
        *ret_knows = knows;
    }
    return best >= 0;
}

/* Checksums of [block, block + count); what a store cannot tell gets a sum of its own, unlike
 * any other side's. */
static int co_sums(struct resync *resync, struct feed *feed, struct extent_ref where,
                   uint32_t block, uint32_t count, uint64_t *sums, uint64_t unlike)
{
    int r;

    memset(resync->unknown, 0, sizeof(resync->unknown));
    r = co_column_checksums(feed->store, resync->mirror->vdisk.id, where, block, count, sums,
                            resync->unknown);
    if (r != -EBADMSG)
        return r;
    SOMETIMES("resync: a side does not know the checksum of a block");
    for (uint32_t i = 0; i < count; i++) {
        if (bit_get(resync->unknown, i))
            sums[i] = unlike;
    }
    return 0;
}

static bool may_differ(const struct resync *resync, uint32_t block, uint32_t i)
{
    return bit_get(resync->todo, block + i) &&
           (resync->mirror->erasure || resync->source_sums[i] != resync->target_sums[i]);
}

/* Starts copies for the blocks of [block, block + count) that are to be compared and differ. */
static int co_copy_differences(struct resync *resync, uint32_t block, uint32_t count)
{
    uint32_t i = 0;

    while (i < count && resync->error == 0) {
        struct write_extent run = {resync->slab, block + i, 0};

        while (i < count && run.count < PIECE_BLOCKS && may_differ(resync, block, i)) {
            run.count++;
            i++;
        }
        if (run.count == 0) {
            i++;
            continue;
        }
        int r = co_copy_start(resync, run);

        if (r < 0)
            return r;
    }
    return resync->error;
}

static uint32_t count_todo(const struct resync *resync, uint32_t block, uint32_t count)
{
    uint32_t blocks = 0;

    for (uint32_t i = 0; i < count; i++)
        blocks += bit_get(resync->todo, block + i);
    return blocks;
}

static int co_compare_chunk(struct resync *resync, uint32_t block, uint32_t count)
{
    struct source source;
    bool knows;
    int r;

    if (resync->mirror->erasure) { /* the copies compare */
        r = co_parity_skip_unwritten(resync->feed, resync->column,
                                     (struct write_extent){resync->slab, block, count},
                                     resync->todo);
        return r < 0 ? r : co_copy_differences(resync, block, count);
    }
    if (!find_source(resync, 0, &source, &knows))
        return -EHOSTUNREACH;
    r = co_sums(resync, source.feed, source.where, block, count, resync->source_sums, UINT64_MAX);
    if (r < 0)
        return r;
    r = co_sums(resync, resync->feed,
                mirror_columns(resync->mirror, resync->slab)[resync->column].where, block, count,
                resync->target_sums, UINT64_MAX - 1);
    if (r < 0)
        return r;
    return co_copy_differences(resync, block, count);
}

/* Stamps tell what a column changed, not what it was spared from changing: a block that a resync
 * found equal has no new stamp, though others may have missed what went on in between. So only a
 * column that was in-sync already when the target turned stale can say what is to be compared;
 * if none is left, and for a new column, everything is. */
static int co_compare_list(struct resync *resync)
{
    struct mirror *mirror = resync->mirror;
    uint32_t blocks = mirror->config->slab_blocks;
    struct column_config target = mirror_columns(mirror, resync->slab)[resync->column];
    struct source source;
    bool knows;
    int r;

    if (mirror->erasure)
        return co_parity_compare_list(resync->feed, resync->slab, resync->column, resync->todo);
    if (!find_source(resync, target.stale_epoch, &source, &knows))
        return -EHOSTUNREACH;
    memset(resync->todo, knows ? 0 : 0xff, DIV_ROUND_UP(blocks, 64) * 8);
    SOMETIMES_IF(!knows, "resync: everything is compared");
    if (!knows)
        return 0;
    SOMETIMES("resync: what changed since the stale epoch is compared");
    r = co_column_compare_set(source.feed->store, mirror->vdisk.id, source.where,
                              target.stale_epoch + PLANTED(RESYNC_SINCE_LATER), blocks,
                              resync->todo);
    if (r < 0)
        return r;
    return co_column_compare_set(resync->feed->store, mirror->vdisk.id, target.where, 0, blocks,
                                 resync->todo);
}

static int co_compare_column(struct resync *resync)
{
    struct feed *feed = resync->feed;
    bool lacks_all = mirror_columns(resync->mirror, resync->slab)[resync->column].stale_epoch == 0;
    uint32_t blocks = vdisk_config_column_blocks(resync->mirror->config);
    int r;

    r = co_compare_list(resync);
    if (r < 0)
        return r;
    feed->compare_blocks = count_todo(resync, 0, blocks);
    for (uint32_t block = 0; block < blocks; block += CHUNK_BLOCKS) {
        uint32_t count = MIN(blocks - block, CHUNK_BLOCKS);
        uint32_t todo = count_todo(resync, block, count);

        if (lacks_all && PLANTED(REPAIR_COPIES_NOTHING))
            todo = 0;
        r = todo > 0 ? co_wait_while_paused(feed) : 0;
        if (r == 0 && todo > 0)
            r = co_compare_chunk(resync, block, count);
        if (r < 0)
            return r;
        feed->compare_blocks -= todo;
        feed->filled_blocks += lacks_all ? count : 0;
    }
    return 0;
}

static int co_resync_column(struct resync *resync, uint32_t slab, uint32_t column)
{
    struct mirror *mirror = resync->mirror;
    int r;

    SOMETIMES_IF(mirror->slabs_waiting > 0, "resync: runs while a takeover is under way");
    resync->slab = slab;
    resync->column = column;
    resync->error = 0;
    r = co_compare_column(resync);
    co_group_wait(&resync->copies);
    resync->feed->compare_blocks = 0;
    return r < 0 ? r : resync->error;
}

/* It stays stale, and is tried again; others need not wait for it. */
static void leave_out(struct resync *resync, uint32_t slab, int why)
{
    SOMETIMES_IF(why == -EAGAIN, "resync: a slab that waits for its takeover is left out");
    SOMETIMES_IF(why != -EAGAIN, "resync: a slab that cannot be copied is left out");
    bit_set(resync->left_out, slab);
    if (resync->why_left_out == 0 || resync->why_left_out == -EAGAIN)
        resync->why_left_out = why;
}

/* Is there a stale column here whose slab has been taken over? (Else its last in-sync column is
 * away.) */
static bool any_is_ready(const struct feed *feed)
{
    for (uint32_t slab = 0; slab < feed->mirror->slab_count; slab++) {
        const struct column_config *column = column_here(feed, slab);

        if (column && column->state == COLUMN_STALE && feed->mirror->slabs[slab].ready)
            return true;
    }
    return false;
}

static int co_wait_until_ready(struct feed *feed)
{
    while (feed->up && feed->stale_columns > 0 && !any_is_ready(feed)) {
        int r = co_mirror_wait(feed->mirror, UINT64_MAX);

        if (r < 0)
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

/* Returns 0 when some have caught up (those that are left out have not), or why none has. */
static int co_resync_columns(struct resync *resync)
{
    struct feed *feed = resync->feed;
    struct mirror *mirror = resync->mirror;
    bool any = false;
    int r;

    memset(resync->left_out, 0, DIV_ROUND_UP(resync->slab_count, 64) * 8);
    resync->why_left_out = 0;
    r = co_wait_until_ready(feed);
    if (r < 0)
        return r;
    /* What turns stale here, or comes here, breaks the feed; so the set only shrinks. */
    for (uint32_t slab = 0; slab < resync->slab_count; slab++) {
        const struct column_config *column = column_here(feed, slab);

        if (!column || column->state != COLUMN_STALE)
            continue;
        if (mirror->slabs[slab].ready) {
            r = co_resync_column(resync, slab, (uint32_t)(column - mirror_columns(mirror, slab)));
            if (r == -EAGAIN) /* a store that has too much to do: no takeover to wait for */
                r = -EBUSY;
        } else {
            r = -EAGAIN;
        }
        if (!feed->up || r == -ECANCELED)
            return r < 0 ? r : -ENOTCONN;
        if (r < 0)
            leave_out(resync, slab, r);
        any = any || r == 0;
    }
    return any || feed->stale_columns == 0 ? 0 : resync->why_left_out;
}

/* ---- joining ---- */

bool resync_may_join(const struct feed *feed)
{
    const struct mirror_options *options = &feed->mirror->options;

    return !options->may_join || options->may_join(options->arg, feed->disk);
}

/* Nothing waits for the columns meanwhile; they go on getting what is written. */
static int co_await_may_join(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;

    while (feed->up && !resync_may_join(feed)) {
        SOMETIMES("resync: what has caught up may not join");
        int r = co_mirror_wait(mirror, io_now_ns(mirror->io) + mirror->limits.propose_ns);

        if (r < 0 && r != -ETIMEDOUT)
            return r;
    }
    return feed->up ? 0 : -ENOTCONN;
}

void co_resync_await_answer(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;

    while (feed->proposed && !mirror->stopped) {
        uint64_t now_ns = io_now_ns(mirror->io);
        int r;

        if (feed->proposed_epoch != mirror->epoch ||
            now_ns - feed->proposed_ns >= mirror->limits.propose_ns) {
            feed->proposed_epoch = mirror->epoch;
            feed->proposed_ns = now_ns;
            mirror->options.propose_in_sync(mirror->options.arg, mirror->vdisk.id, mirror->epoch,
                                            feed->disk, feed->proposed_slabs,
                                            feed->proposed_slab_count);
        }
        r = co_mirror_wait(mirror, now_ns + mirror->limits.propose_ns);
        if (r == -ECANCELED)
            return;
    }
}

/* How many stale columns have caught up. slabs: NULL, or room for them. */
static size_t list_caught_up(const struct resync *resync, uint32_t *slabs)
{
    size_t count = 0;

    for (uint32_t slab = 0; slab < resync->slab_count; slab++) {
        const struct column_config *column = column_here(resync->feed, slab);

        if (!column || column->state != COLUMN_STALE || bit_get(resync->left_out, slab))
            continue;
        if (slabs)
            slabs[count] = slab;
        count++;
    }
    return count;
}

/* What is to be proposed: all, or the slabs that have caught up, or as many of them as a command
 * takes. Returns 0 or -ENOMEM. */
static int choose_slabs(struct resync *resync)
{
    struct feed *feed = resync->feed;
    size_t count = list_caught_up(resync, NULL);

    free(take_ptr(feed->proposed_slabs));
    feed->proposed_slab_count = 0;
    if (count == feed->stale_columns || PLANTED(JOIN_LEFT_OUT))
        return 0;
    feed->proposed_slabs = calloc(count, sizeof(*feed->proposed_slabs));
    if (!feed->proposed_slabs)
        return -ENOMEM;
    feed->proposed_slab_count = MIN(list_caught_up(resync, feed->proposed_slabs), SLABS_PROPOSED);
    return 0;
}

/* Makes them count, and what they hold durable. Returns 0 or why it ended. */
static int co_count(struct feed *feed)
{
    int r = co_await_may_join(feed);

    if (r < 0)
        return r;
    /* From now on no write is committed without it; again, if the answer was no. */
    feed->counted = !PLANTED(JOIN_UNCOUNTED);
    feed->has_mark = false;
    r = co_wait_for_feed(feed);
    if (r == 0)
        r = PLANTED(JOIN_NO_MARK) ? 0 : co_feed_tell(feed, true);
    /* It went and came back, and may have lost what was compared. */
    if (r == 0 && !column_stream_attached(&feed->column)) {
        SOMETIMES("resync: the column went before it was proposed");
        r = -ENOTCONN;
    }
    if (feed->mirror->stopped || !feed->up)
        return -ENOTCONN;
    if (r == -EAGAIN) /* the store has too much to do */
        feed->not_before_ns = io_now_ns(feed->mirror->io) + feed->mirror->limits.retry_ns;
    if (r < 0)
        feed_break(feed, r);
    return r;
}

/* A source was lost since: what was compared with it has to be compared again. */
static bool is_void(const struct mirror *mirror, uint32_t sources_lost)
{
    return mirror->sources_lost != sources_lost && !PLANTED(RESYNC_KEEPS_COMPARED);
}

/* Proposes until what has caught up is in-sync, or has moved. Returns 0, -EAGAIN (a source was lost
 * since `sources_lost`: compare again), or why it ended. */
static int co_propose(struct resync *resync, uint32_t sources_lost)
{
    struct feed *feed = resync->feed;

    while (feed->up && list_caught_up(resync, NULL) > 0) {
        int r = is_void(feed->mirror, sources_lost) ? -EAGAIN : co_count(feed);

        if (r < 0)
            return r;
        /* From here to the proposal nothing suspends: it is void in any later epoch. */
        if (is_void(feed->mirror, sources_lost) && !PLANTED(SOURCE_LOST_LATE)) {
            SOMETIMES("resync: a source was lost just before the proposal");
            return -EAGAIN;
        }
        if (list_caught_up(resync, NULL) == 0) {
            SOMETIMES("resync: what was to join has got a place elsewhere");
            return 0;
        }
        INVARIANT(I1, feed->counted);
        INVARIANT(I8, feed->has_mark);
        r = choose_slabs(resync);
        if (r < 0)
            return r;
        feed->proposed = true;
        feed->proposed_epoch = 0; /* now, whatever was proposed before */
        co_resync_await_answer(feed);
        if (co_cancelled())
            return -ECANCELED;
        SOMETIMES_IF(feed->up && list_caught_up(resync, NULL) > 0,
                     "resync: proposed again, the first was void");
    }
    return feed->up ? 0 : -ENOTCONN;
}

static int co_join(struct resync *resync, uint32_t sources_lost)
{
    int r = co_propose(resync, sources_lost);

    if (!resync->feed->proposed)
        resync->feed->counted = false; /* what is left out holds nobody up */
    return r;
}

/* Raft shows them in-sync: their lists of blocks to compare are history. If this fails they stay,
 * and the next resync compares more than it must. */
static void co_forget_lists(struct feed *feed, const struct extent_ref *refs, size_t count)
{
    struct mirror *mirror = feed->mirror;
    int r;

    if (!feed->up || count == 0)
        return;
    r = co_column_clear_compare(feed->store, mirror->vdisk.id, mirror->epoch, refs, count);
    if (r < 0)
        log_debug(mirror->io, "mirror", "compare lists stay", "vdisk=%llu disk=%llu error=%d",
                  (unsigned long long)mirror->vdisk.id, (unsigned long long)feed->disk, r);
}

static int co_resync_feed(struct resync *resync)
{
    const struct mirror *mirror = resync->mirror;
    struct feed *feed = resync->feed;
    uint32_t sources_lost;
    int r;

    r = PLANTED(RESYNC_NO_BARRIER) ? 0 : co_wait_for_writes(feed);
    if (r < 0)
        return r;
    /* What turns stale by another's word may have lost its log before we heard of it: a block that
     * was found equal to it then may be as old as it. An "in-sync" that was proposed meanwhile is
     * void, for that is a new epoch. */
    do {
        sources_lost = mirror->sources_lost;
        r = co_resync_columns(resync);
        if (r == 0)
            r = co_join(resync, sources_lost);
        SOMETIMES_IF(r == -EAGAIN, "resync: all is compared again, a source was lost");
    } while (r == -EAGAIN && mirror->sources_lost != sources_lost);
    return r < 0 ? r : resync->why_left_out;
}

static void note_asked(struct resync *resync)
{
    for (uint32_t slab = 0; slab < resync->slab_count; slab++) {
        const struct column_config *column = column_here(resync->feed, slab);

        if (column && column->state == COLUMN_STALE)
            bit_set(resync->asked, slab);
    }
}

static size_t list_joined(const struct resync *resync, struct extent_ref *refs)
{
    size_t count = 0;

    for (uint32_t slab = 0; slab < resync->slab_count; slab++) {
        const struct column_config *column = column_here(resync->feed, slab);

        if (column && column->state == COLUMN_IN_SYNC && bit_get(resync->asked, slab))
            refs[count++] = column->where;
    }
    return count;
}

int co_resync_run(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    size_t slab_words = DIV_ROUND_UP(mirror->slab_count, 64);
    cleanup(freep) struct resync *resync = calloc(1, sizeof(*resync));
    cleanup(freep) uint64_t *todo = calloc(DIV_ROUND_UP(mirror->config->slab_blocks, 64), 8);
    cleanup(freep) uint64_t *slabs = calloc(2 * slab_words, 8);
    cleanup(freep) struct extent_ref *refs = calloc(feed->stale_columns, sizeof(*refs));
    size_t count;
    int r;

    assert(feed->stale_columns > 0);
    assert(feed->catching);
    if (!resync || !todo || !slabs || !refs)
        return -ENOMEM;
    resync->feed = feed;
    resync->mirror = mirror;
    resync->todo = todo;
    resync->slab_count = mirror->slab_count;
    resync->asked = slabs;
    resync->left_out = slabs + slab_words;
    co_sem_init(&resync->slots, mirror->limits.resync_depth);
    co_group_init(&resync->copies);
    note_asked(resync);
    feed->filled_blocks = 0;
    r = co_resync_feed(resync);
    feed->filled_blocks = 0;
    count = list_joined(resync, refs);
    log_info(mirror->io, "mirror",
             r == 0      ? "columns are in-sync again"
             : count > 0 ? "some columns are in-sync again"
                         : "resync was interrupted",
             "vdisk=%llu disk=%llu columns=%zu stale=%u error=%d",
             (unsigned long long)mirror->vdisk.id, (unsigned long long)feed->disk, count,
             feed->stale_columns, r);
    SOMETIMES_IF(r < 0, "resync: interrupted");
    co_forget_lists(feed, refs, count);
    return r;
}
