/* Who is evicted, and when. A column that counts and does not answer holds up its vdisk; only Raft
 * may take it out of the count, so "evict" means: propose it stale, and again, until a
 * configuration shows it (or it answers after all).
 *
 *   the medium failed              at once
 *   away, and something waits      after unreachable_ns
 *   slow to confirm a record       after slow_ns
 *
 * It is proposed only where that helps: some slab must have another in-sync column that answers
 * (parity: as many as it has data columns), and in time, if this one is merely slow: when all logs
 * are full, all are slow alike, and writes would not go faster with fewer copies. The last in-sync
 * column is never marked stale anyway (I3); its slab waits. A column that is being brought up is
 * not counted: when it is slow, its feed is broken and left alone for a while. */
#include "resiliency/mirror_private.h"

#define WATCH_NS (50 * MS)
#define SLOW_RETRY_NS (2 * SEC)
#define EVICT_MAX 64 /* disks in one proposal */

static struct feed_part *oldest_part(const struct feed *feed)
{
    if (list_empty(&feed->parts))
        return NULL;
    return list_first(&feed->parts, struct feed_part, node);
}

static bool answers(const struct feed *feed, bool in_time, uint64_t now_ns)
{
    const struct feed_part *oldest = oldest_part(feed);

    if (!feed->up || !in_time || !oldest)
        return feed->up;
    return now_ns - oldest->since_ns < feed->mirror->limits.slow_ns / 2;
}

/* Marking it stale lets some slab go on: there are as many other in-sync columns as its data needs
 * (one in a mirror), and they answer. */
static bool eviction_helps(const struct feed *feed, uint64_t now_ns)
{
    bool merely_slow = feed->up && !feed->failed;
    const struct mirror *mirror = feed->mirror;
    uint32_t width = mirror->config->width;

    for (uint32_t slab = 0; slab < mirror->slab_count; slab++) {
        const struct column_config *columns = mirror_columns(mirror, slab);
        uint32_t elsewhere = 0;
        bool here = false;

        if (columns[0].disk == 0)
            continue;
        for (uint32_t i = 0; i < width; i++) {
            if (columns[i].state != COLUMN_IN_SYNC)
                continue;
            if (columns[i].disk == feed->disk)
                here = true;
            else
                elsewhere += answers(mirror_feed(mirror, slab, i), merely_slow, now_ns);
        }
        if (here && elsewhere >= mirror->config->data_columns)
            return true;
    }
    return false;
}

/* The takeover needs its tail, or what its tail names. *ret_wanted: a client's request waits for
 * that. */
static bool takeover_waits_for(const struct feed *feed, bool *ret_wanted)
{
    const struct mirror *mirror = feed->mirror;
    bool waits = false;

    *ret_wanted = false;
    if ((feed->sealed && feed->up) || mirror->slabs_waiting == 0)
        return false;
    for (uint32_t slab = 0; slab < mirror->slab_count; slab++) {
        const struct column_config *columns = mirror_columns(mirror, slab);

        if (mirror->slabs[slab].ready || columns[0].disk == 0)
            continue;
        for (uint32_t i = 0; i < mirror->config->width; i++) {
            if (columns[i].disk != feed->disk || columns[i].state != COLUMN_IN_SYNC)
                continue;
            waits = true;
            *ret_wanted = *ret_wanted || mirror->slabs[slab].wanted;
        }
    }
    return waits;
}

static bool is_late(const struct feed *feed, uint64_t now_ns)
{
    const struct mirror *mirror = feed->mirror;
    const struct feed_part *oldest = oldest_part(feed);
    bool waits, wanted;

    if (feed->failed)
        return true;
    if (feed->up)
        return oldest && now_ns - oldest->since_ns >= mirror->limits.slow_ns;
    waits = takeover_waits_for(feed, &wanted);
    if (!oldest && !waits)
        return false;
    if (now_ns < mirror->options.grace_until_ns && !oldest && !wanted)
        return false;
    /* Away from the first is away since then; a request waits for it since its own beginning. */
    if (oldest && now_ns - oldest->since_ns >= mirror->limits.slow_ns)
        return true;
    return now_ns - feed->down_since_ns >= mirror->limits.unreachable_ns;
}

/* A proposal is not repeated before propose_ns, unless the epoch it named has passed. */
static bool may_propose(struct feed *feed, uint64_t now_ns)
{
    const struct mirror *mirror = feed->mirror;

    return feed->proposed_epoch != mirror->epoch ||
           now_ns - feed->proposed_ns >= mirror->limits.propose_ns;
}

static void propose_stale(struct mirror *mirror, uint64_t now_ns)
{
    uint64_t disks[EVICT_MAX];
    size_t count = 0;

    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        if (count == EVICT_MAX || feed->in_sync_columns == 0 || !is_late(feed, now_ns))
            continue;
        if (!may_propose(feed, now_ns))
            continue;
        if (!eviction_helps(feed, now_ns)) {
            SOMETIMES_IF(feed->up && !feed->failed,
                         "evict: a slow column stays, others are as slow");
            continue;
        }
        SOMETIMES_IF(feed->proposed_epoch == mirror->epoch,
                     "evict: a proposal that nothing answered is repeated");
        SOMETIMES_IF(feed->failed, "evict: a column whose disk failed");
        SOMETIMES_IF(feed->up, "evict: a column that is slow to confirm");
        SOMETIMES_IF(mirror->slabs_waiting > 0, "evict: during a takeover");
        feed->proposed_epoch = mirror->epoch;
        feed->proposed_ns = now_ns;
        disks[count++] = feed->disk;
        log_info(mirror->io, "mirror", "a column does not answer; asking for it to be stale",
                 "vdisk=%llu epoch=%llu disk=%llu", (unsigned long long)mirror->vdisk.id,
                 (unsigned long long)mirror->epoch, (unsigned long long)feed->disk);
    }
    if (count == 0)
        return;
    counter_add(&mirror->evictions, count);
    mirror->options.propose_stale(mirror->options.arg, mirror->vdisk.id, mirror->epoch, disks,
                                  count);
}

/* A takeover may do nothing but read there, and no record is on its way that would tell. */
static void break_absent_ones(struct mirror *mirror)
{
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);

        if (mirror->slabs_waiting == 0 || !feed->up || feed->store->reachable)
            continue;
        SOMETIMES("evict: a column goes while a takeover reads");
        feed_break(feed, -ENOTCONN);
    }
}

/* Being brought up, also if it is counted but not proposed, and slower than a counted column may
 * be: does not hold up the writers. */
static void leave_slow_ones(struct mirror *mirror, uint64_t now_ns)
{
    list_for_each (node, &mirror->feeds) {
        struct feed *feed = list_entry(node, struct feed, node);
        const struct feed_part *oldest = oldest_part(feed);

        if (!feed->up || feed->in_sync_columns > 0 || feed->proposed || !oldest)
            continue;
        if (now_ns - oldest->since_ns < mirror->limits.slow_ns)
            continue;
        SOMETIMES("evict: a column that is brought up is left alone, it is too slow");
        feed->not_before_ns = now_ns + SLOW_RETRY_NS;
        feed_break(feed, -ETIMEDOUT);
    }
}

static bool something_waits(const struct mirror *mirror)
{
    if (!list_empty(&mirror->in_flight) || mirror->slabs_waiting > 0)
        return true;
    list_for_each (node, &mirror->feeds) {
        const struct feed *feed = list_entry(node, struct feed, node);

        if (!list_empty(&feed->parts) || (feed->failed && feed->in_sync_columns > 0))
            return true;
    }
    return false;
}

void evict_timer(void *arg)
{
    struct mirror *mirror = arg;
    uint64_t now_ns = io_now_ns(mirror->io);

    if (mirror->stopped)
        return;
    break_absent_ones(mirror);
    propose_stale(mirror, now_ns);
    leave_slow_ones(mirror, now_ns);
    evict_watch(mirror);
}

void evict_watch(struct mirror *mirror)
{
    if (mirror->stopped || io_timer_armed(&mirror->watch_timer) || !something_waits(mirror))
        return;
    io_timer_arm(mirror->io, &mirror->watch_timer, io_now_ns(mirror->io) + WATCH_NS);
}
