/* A feed's life. See feed.h for the steps and column_store.h for what a break means.
 *
 * The order of records is kept by one list, `parts`, in the order of their seqs. What is sent names
 * the record sent before it on this attachment (chain_seq), so records that nobody wants any more
 * simply leave the list: the store sees a chain without a gap. What is resent is sent under the
 * present epoch (I4).
 *
 * Watermarks flow only while the feed is open: every slab with an in-sync column here has been
 * taken over (a watermark covers all records of earlier sessions), and the stale columns here have
 * dropped their tails. An attachment starts closed. */
#include "resiliency/mirror_private.h"

static void feed_changed(struct feed *feed)
{
    co_cond_broadcast(&feed->mirror->changed);
}

/* ---- records ---- */

static void part_finish(struct feed_part *part, enum part_state state, int result)
{
    assert(part->state == PART_QUEUED || part->state == PART_SENT);
    list_remove(&part->node);
    part->state = state;
    part->done(part, result);
}

static bool part_wanted(const struct feed_part *part)
{
    if (part->feed->mirror->stopped || part->once)
        return false;
    return write_part_wanted(part);
}

static void feed_on_append(struct store_append *append, int result)
{
    struct feed_part *part = container_of(append, struct feed_part, append.store);
    struct feed *feed = part->feed;

    assert(part->state == PART_SENT);
    if (result == 0) {
        feed->failed = false;
        part_finish(part, PART_DURABLE, 0);
    } else {
        part->state = PART_QUEUED;
        part->since_ns = io_now_ns(feed->mirror->io);
        feed_break(feed, result);
        if (part->state == PART_QUEUED && !part_wanted(part))
            part_finish(part, PART_DROPPED, result);
    }
    co_group_done(&feed->sent);
}

static void feed_transmit(struct feed *feed, struct feed_part *part)
{
    struct mirror *mirror = feed->mirror;
    struct record *record = &part->append.store.record;

    assert(feed->up);
    assert(part->state == PART_QUEUED);
    assert(record->position.seq > feed->chain_seq);
    record->prev_seq = feed->chain_seq;
    SOMETIMES_IF(record->epoch != 0 && record->epoch != mirror->epoch,
                 "feed: a record is sent again under a later epoch");
    record->epoch = mirror->epoch;
    record->watermark = feed->opened ? mirror_watermark(mirror) : (struct log_position){0};
    assert(part->once || record->watermark.seq < record->position.seq);
    record->watermark.seq = MIN(record->watermark.seq, record->position.seq - 1);
    feed->told_seq = MAX(feed->told_seq, record->watermark.seq);
    feed->chain_seq = record->position.seq;
    feed->sent_ns = io_now_ns(mirror->io);
    part->since_ns = feed->sent_ns;
    part->state = PART_SENT;
    part->append.store.done = feed_on_append;
    co_group_add(&feed->sent, 1);
    column_append(&feed->column, &part->append);
}

void feed_send(struct feed *feed, struct feed_part *part)
{
    assert(list_empty(&feed->parts) ||
           list_entry(feed->parts.prev, struct feed_part, node)->append.store.record.position.seq <
               part->append.store.record.position.seq);
    part->feed = feed;
    part->state = PART_QUEUED;
    part->since_ns = io_now_ns(feed->mirror->io);
    list_push_back(&feed->parts, &part->node);
    if (feed->up)
        feed_transmit(feed, part);
}

void feed_drop_unwanted(struct feed *feed)
{
    list_for_each_safe (node, &feed->parts) {
        struct feed_part *part = list_entry(node, struct feed_part, node);

        if (part->state == PART_QUEUED && !part_wanted(part))
            part_finish(part, PART_DROPPED, -ECANCELED);
    }
}

static void feed_detach(struct feed *feed)
{
    if (feed->store)
        column_detach(&feed->column);
}

void feed_break(struct feed *feed, int error)
{
    struct mirror *mirror = feed->mirror;

    if (error == -EIO)
        feed->failed = true;
    if (!feed->up)
        return;
    feed->up = false;
    feed->opened = false;
    feed->catching = false;
    /* Once "in-sync" was proposed only a configuration can take it back. */
    if (!feed->proposed)
        feed->counted = false;
    feed->down_since_ns = io_now_ns(mirror->io);
    log_debug(mirror->io, "mirror", "feed broke", "vdisk=%llu disk=%llu error=%d",
              (unsigned long long)mirror->vdisk.id, (unsigned long long)feed->disk, error);
    if (error == -EIO || error == -EINVAL) /* it will say so again */
        feed->not_before_ns = feed->down_since_ns + mirror->limits.retry_ns;
    feed_detach(feed);
    feed_drop_unwanted(feed);
    evict_watch(mirror);
    feed_changed(feed);
}

/* ---- attaching ---- */

static int compare_tail(const void *a, const void *b)
{
    const struct store_tail_record *left = a, *right = b;

    if (left->slab != right->slab)
        return left->slab < right->slab ? -1 : 1;
    return log_position_compare(left->position, right->position);
}

/* The tail begins with clients' requests that are committed. */
static void learn_committed(struct mirror *mirror, struct store_seal *seal)
{
    size_t count = 0;

    while (count < seal->tail_count &&
           log_position_compare(seal->tail[count].position, seal->watermark) <= 0)
        takeover_learn(mirror, &seal->tail[count++]);
    seal->tail_count -= count;
    memmove(seal->tail, seal->tail + count, seal->tail_count * sizeof(*seal->tail));
}

/* The first seal of a session hears what the takeover must write again; later ones in the same
 * session only report our own records. */
static void feed_keep_tail(struct feed *feed, struct store_seal *seal)
{
    if (feed->sealed || feed->mirror->slabs_waiting == 0) {
        store_seal_done(seal);
        feed->sealed = true;
        return;
    }
    learn_committed(feed->mirror, seal);
    if (seal->tail_count > 0)
        qsort(seal->tail, seal->tail_count, sizeof(seal->tail[0]), compare_tail);
    feed->seal = *seal;
    feed->sealed = true;
}

/* The store holds everything through durable_seq; the rest is sent again, in order. */
static void feed_resend(struct feed *feed, uint64_t durable_seq)
{
    feed->chain_seq = durable_seq;
    list_for_each_safe (node, &feed->parts) {
        struct feed_part *part = list_entry(node, struct feed_part, node);

        if (part->append.store.record.position.seq <= durable_seq || PLANTED(RESEND_FORGOTTEN)) {
            SOMETIMES("feed: a record turns out durable after a reconnect");
            part_finish(part, PART_DURABLE, 0);
        } else if (!part_wanted(part)) {
            part_finish(part, PART_DROPPED, -ECANCELED);
        } else {
            SOMETIMES("feed: a record is sent again after a reconnect");
            feed_transmit(feed, part);
        }
    }
}

/* Between attachments: nothing is in flight. A disk may have moved to another node. */
static void feed_find_store(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    struct column_store *store =
        mirror->options.column(mirror->options.arg, feed->node_id, feed->disk);

    if (store == feed->store)
        return;
    feed->store = store;
    column_stream_init(&feed->column, store, mirror->vdisk.id);
}

static int co_attach(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    struct store_seal seal = {0};
    uint64_t epoch = mirror->epoch, durable_seq;
    int r;

    feed_detach(feed);
    if (column_stream_idle(&feed->column))
        feed_find_store(feed);
    if (!feed->store)
        return -ENODEV;
    if (!feed->store->reachable)
        return -ENOTCONN;
    r = co_column_seal(&feed->column, epoch, mirror->session, &seal);
    /* The seal ended what was in flight; not before, for a full log may stay full until it. */
    co_group_wait(&feed->sent);
    feed->fenced = r == -ESTALE && seal.sealed_epoch > mirror->epoch;
    SOMETIMES_IF(feed->fenced, "feed: an owner learns from a seal that it is one no more");
    if (r == -EIO)
        feed->failed = true;
    else if (r == 0 && feed->in_sync_columns == 0)
        feed->failed = false; /* evicted for it; now it has another chance */
    if (r < 0) {
        if (r == -EIO)
            evict_watch(mirror);
        return r;
    }
    if (mirror->stopped || feed->retired) {
        store_seal_done(&seal);
        feed_detach(feed);
        return -ESTALE;
    }
    durable_seq = seal.durable.session == mirror->session ? seal.durable.seq : 0;
    if (durable_seq > mirror->seq) {
        log_error(mirror->io, "mirror", "someone else has written in our session; it ends",
                  "vdisk=%llu session=%llu disk=%llu", (unsigned long long)mirror->vdisk.id,
                  (unsigned long long)mirror->session, (unsigned long long)feed->disk);
        store_seal_done(&seal);
        mirror_stop(mirror);
        return -ESTALE;
    }
    feed->up = true;
    feed->opened = false;
    feed->told_seq = 0;
    feed_keep_tail(feed, &seal);
    feed_resend(feed, durable_seq);
    feed_changed(feed);
    return 0;
}

/* ---- serving ---- */

int co_feed_tell(struct feed *feed, bool durable)
{
    struct mirror *mirror = feed->mirror;
    struct log_position watermark = mirror_watermark(mirror);
    int r;

    assert(feed->opened);
    r = co_column_mark(feed->store, mirror->vdisk.id, mirror->epoch, watermark, durable);
    if (r == 0 && feed->opened) {
        feed->told_seq = MAX(feed->told_seq, watermark.seq);
        feed->has_mark = feed->has_mark || durable;
    }
    return r;
}

static int co_drop_tail(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    cleanup(freep) struct extent_ref *refs = calloc(feed->stale_columns, sizeof(*refs));
    size_t count;

    if (!refs)
        return -ENOMEM;
    count = resync_list_columns(feed, refs);
    return co_column_drop_tail(feed->store, mirror->vdisk.id, mirror->epoch, refs, count);
}

/* Every slab with an in-sync column here has been taken over. */
static bool slabs_are_taken_over(const struct feed *feed)
{
    const struct mirror *mirror = feed->mirror;

    if (mirror->slabs_waiting == 0)
        return true;
    for (uint32_t slab = 0; slab < mirror->slab_count; slab++) {
        const struct column_config *columns = mirror_columns(mirror, slab);

        if (mirror->slabs[slab].ready)
            continue;
        for (uint32_t i = 0; i < mirror->config->width; i++) {
            if (columns[i].disk == feed->disk && columns[i].state == COLUMN_IN_SYNC)
                return false;
        }
    }
    return true;
}

static bool may_open(const struct feed *feed)
{
    return slabs_are_taken_over(feed) || PLANTED(MARK_EARLY);
}

static int co_open(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    uint32_t stale_columns = feed->stale_columns;
    int r;

    if (stale_columns > 0 && PLANTED(STALE_TAKES_MARK)) {
        feed->opened = true;
        (void)co_feed_tell(feed, false);
        feed->opened = false;
    }
    if (stale_columns > 0 && !PLANTED(STALE_TAIL_KEPT)) {
        r = co_drop_tail(feed);
        if (r < 0)
            return r;
    }
    while (feed->up && !may_open(feed)) {
        SOMETIMES_IF(stale_columns > 0,
                     "feed: stale columns wait for the takeover of others on their disk");
        r = co_mirror_wait(mirror, UINT64_MAX);
        if (r < 0)
            return r;
    }
    /* What became stale meanwhile broke the feed (mirror_configure()). */
    if (!feed->up)
        return -ECANCELED;
    INVARIANT(I6, slabs_are_taken_over(feed));
    feed->opened = true;
    feed->catching = feed->stale_columns > 0;
    feed_changed(feed);
    r = co_feed_tell(feed, false);
    return feed->up ? r : -ECANCELED;
}

#define RESYNC_PAUSE_NS (2 * SEC) /* after an attempt that could not end */

static void co_serve(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    int r;

    if (feed->counted) {
        /* It broke while a proposal was out, and has everything again. */
        SOMETIMES("feed: broke while a proposal 'in-sync' was out");
        co_resync_await_answer(feed);
        if (feed->counted) { /* void: begin anew */
            feed->counted = false;
            feed_break(feed, -ESTALE);
        }
    }
    if (!feed->up)
        return;
    r = co_open(feed);
    if (r < 0) {
        feed->not_before_ns = io_now_ns(mirror->io) + mirror->limits.retry_ns;
        feed_break(feed, r);
        return;
    }
    while (feed->up) {
        uint64_t again_ns = UINT64_MAX;

        r = feed->stale_columns > 0 ? co_resync_run(feed) : 0;
        if (r == -EAGAIN) /* it waits by itself */
            continue;
        if (r < 0)
            again_ns = io_now_ns(mirror->io) + RESYNC_PAUSE_NS;
        do {
            if (!feed->up)
                return;
            r = co_mirror_wait(mirror, again_ns);
        } while (r == 0 && again_ns != UINT64_MAX);
        if (r < 0 && r != -ETIMEDOUT)
            return;
    }
}

/* After a failure: until the disk may be worth another try. */
static void co_pause(struct feed *feed)
{
    struct mirror *mirror = feed->mirror;
    uint64_t until_ns = MAX(io_now_ns(mirror->io) + mirror->limits.retry_ns, feed->not_before_ns);

    while (io_now_ns(mirror->io) < until_ns && !feed->retired) {
        int r = co_mirror_wait(mirror, until_ns);

        if (r < 0 && r != -ETIMEDOUT)
            return;
    }
}

static void feed_run(void *arg)
{
    struct feed *feed = arg;
    struct mirror *mirror = feed->mirror;

    do {
        while (!mirror->stopped && !feed->retired) {
            if (co_cancelled())
                mirror_stop(mirror); /* this daemon is being torn down */
            else if (io_now_ns(mirror->io) >= feed->not_before_ns && co_attach(feed) == 0)
                co_serve(feed);
            else
                co_pause(feed);
        }
        feed_break(feed, -ECANCELED);
        feed_detach(feed);
        feed_drop_unwanted(feed);
        co_group_wait(&feed->sent);
    } while (!mirror->stopped && !feed->retired); /* meanwhile a new slab may have a column here */
    feed->running = false;
}

/* ---- life ---- */

void feed_locate(struct feed *feed, uint64_t node)
{
    if (feed->node_id == node)
        return;
    feed->node_id = node;
    feed_break(feed, -ENOTCONN); /* the next attachment looks it up */
}

int feed_start(struct feed *feed)
{
    int r;

    if (feed->running)
        return 0;
    r = mirror_spawn(feed->mirror, "feed", feed_run, feed);
    feed->running = r == 0;
    return r;
}

int feed_new(struct mirror *mirror, uint64_t disk, uint64_t node, struct feed **ret_feed)
{
    struct feed *feed = calloc(1, sizeof(*feed));

    if (!feed)
        return -ENOMEM;
    feed->mirror = mirror;
    feed->disk = disk;
    feed->node_id = node;
    feed->down_since_ns = io_now_ns(mirror->io);
    list_init(&feed->parts);
    co_group_init(&feed->sent);
    column_stream_init(&feed->column, NULL, mirror->vdisk.id);
    feed_find_store(feed);
    list_push_back(&mirror->feeds, &feed->node);
    *ret_feed = feed;
    return 0;
}

void feed_free(struct feed *feed)
{
    assert(!feed->running);
    assert(list_empty(&feed->parts));
    list_remove(&feed->node);
    store_seal_done(&feed->seal);
    free(feed->proposed_slabs);
    free(feed);
}
